"""Looking at a network while it learns: continual evaluation, stability metrics, drift."""
