"""Suites that every adapter of a port runs, against the real server."""
