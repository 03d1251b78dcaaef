"""The sovereign build: a region's own model on a consensus release. Nothing flows back."""

from gobelin.client.sovereign.probe import Head, build_head, load_head, predict, save_head

__all__ = ["Head", "build_head", "load_head", "predict", "save_head"]
