"""Brokers: each passes tests/contracts/test_broker.py against the real server."""
