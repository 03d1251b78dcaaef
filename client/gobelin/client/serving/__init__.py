"""Serving: a sovereign model over HTTP, many requests answered by one forward pass."""
