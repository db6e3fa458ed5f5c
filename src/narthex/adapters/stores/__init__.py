"""Stores: each passes the store suites of tests/contracts against the real server."""
