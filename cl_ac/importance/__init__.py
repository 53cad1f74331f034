"""How much each backbone parameter matters, and what it costs to move it."""
