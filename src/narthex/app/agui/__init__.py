"""AG-UI's requests on threads and runs, the same over HTTP (`web/agui`) and over the WebSocket (`app/rpc/agui`)."""
