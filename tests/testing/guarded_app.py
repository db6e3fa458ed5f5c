"""A guarded FastAPI application with a page that opens its WebSocket; the suite below starts it under uvicorn."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

import narthex

PAGE = """<!doctype html><title>connecting</title><script>
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws", ["jwt-auth", "narthex.explain"]);
socket.onmessage = (event) => { document.title = event.data; };
socket.onclose = (event) => { document.title = `closed ${event.code}`; };
</script>"""

api = FastAPI()


@api.get("/")
async def page() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


@api.websocket("/ws")
async def chat(socket: WebSocket) -> None:
    """Says who it is, and echoes; `quit` is answered with a close of its own."""
    user = narthex.identity(socket)
    await socket.accept()
    await socket.send_text(f"{user.tenant} {user.test_run}")
    try:
        while (text := await socket.receive_text()) != "quit":
            await socket.send_text(text)
        await socket.close(4000, "as you wish")
    except WebSocketDisconnect:
        pass


app = narthex.Guard(api, paths=["/ws"])
