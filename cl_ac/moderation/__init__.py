"""Moderation: texts are judged by the layers of a language model that has learned nothing for it."""
