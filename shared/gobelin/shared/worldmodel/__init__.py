"""Asking a world model: what happens if, which actions lead there, how plausible is this."""
