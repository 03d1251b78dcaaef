"""The contributor node, and the sovereign build on top of a consensus release."""
