"""Networks that are sparse from the first step on: masks that stay, and weights that are sparse and orthogonal."""
