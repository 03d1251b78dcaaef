"""The node's page: what this node does, what left it, and what federating gives it."""
