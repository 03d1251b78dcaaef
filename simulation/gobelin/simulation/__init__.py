"""A whole federation on one machine: the aggregator's app and the nodes' in Flower's simulation."""
