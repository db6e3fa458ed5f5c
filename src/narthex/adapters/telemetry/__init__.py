"""Logging with redaction in one place, and the metrics registry."""
