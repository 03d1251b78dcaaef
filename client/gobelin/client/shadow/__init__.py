"""The shadow: a solo model of this node's data alone, and what the consensus is worth beside it."""
