"""How much each backbone parameter matters, what it costs to move it, and in which directions none may go."""
