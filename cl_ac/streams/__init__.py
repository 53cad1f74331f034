"""How the data of a benchmark arrive."""
