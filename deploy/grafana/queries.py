"""What the panels' queries are written with: prefixes, selectors, legends."""

from __future__ import annotations

A, N = "gobelin_aggregator_", "gobelin_node_"
F = '{federation="$federation"}'
M = '{federation="$federation", member=~"$member"}'
MN = '{federation="$federation", member=~"$member", node=~"$node"}'
OWN = '{member=~"$member", node=~"$node"}'  # a node's own metrics
WHO = "{{member}}/{{node}}"

Query = tuple[str, str]  # expression, legend
Panel = tuple[str, str, str, list[Query]]  # kind, title, unit, queries
Row = tuple[str, list[Panel]]  # a title, and panels in the order in which they stand
