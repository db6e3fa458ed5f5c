"""The edge: request heads, upgrades, WebSocket frames, SIGTERM. uvicorn and websockets live here."""
