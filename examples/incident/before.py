"""The chat as it was: it checks the token itself, before it accepts."""

from agents import converse
from auth import authenticated
from fastapi import FastAPI, WebSocket

app = FastAPI()


@app.websocket("/ws")
async def chat(socket: WebSocket) -> None:
    """A conversation."""
    user = await authenticated(socket)
    if user is None:
        await socket.close(1008, "authentication required")  # before accept: the client sees a bare 403
        return
    await socket.accept()
    await converse(socket, user)
