"""The chat behind `narthex.Guard`: three lines more, and the check of its own is gone."""

from agents import converse
from fastapi import FastAPI, WebSocket

import narthex

app = FastAPI()


@app.websocket("/ws")
async def chat(socket: WebSocket) -> None:
    """A conversation."""
    user = narthex.identity(socket).subject
    await socket.accept()
    await converse(socket, user)


app = narthex.Guard(app, paths=["/ws"])
