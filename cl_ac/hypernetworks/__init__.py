"""Networks that emit the weights of other networks."""
