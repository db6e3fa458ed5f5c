"""Orchestration over ports: handshake, connections, hub, chat, runs, lifecycle. Owns every task."""
