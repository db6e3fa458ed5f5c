"""Tests of logs, redaction and metrics."""
