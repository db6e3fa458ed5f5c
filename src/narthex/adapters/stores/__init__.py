"""Stores: each passes tests/contracts/test_store.py against the real server."""
