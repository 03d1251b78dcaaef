"""Runnable examples, and the loopback federation that they, the benches and the tests share."""
