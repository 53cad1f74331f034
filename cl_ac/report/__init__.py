"""Finished runs in tables, figures and pages; nothing here runs a network."""
