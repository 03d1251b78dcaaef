"""Privacy: example-level DP-SGD on this node, and the budget it spends."""
