"""Probes of any WebSocket server, and the knowledge base of failure signatures."""
