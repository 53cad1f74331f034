"""Retrieval between two views of the same thing, domain after domain."""
