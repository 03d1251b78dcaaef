"""The aggregator's page: what its home says, for a browser; read-only, in a process of its own."""
