"""Networks as sequences of stages, and any other model cut into them."""
