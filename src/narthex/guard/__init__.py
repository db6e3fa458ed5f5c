"""Admission around a WebSocket endpoint that exists already."""
