"""How exits answer and what they are worth: rules, curves, quality, calibration, cost, the executed model."""
