"""Recordings as networks from time to amplitude, whose weights a hypernetwork emits."""
