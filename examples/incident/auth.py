"""The chat's own check of a token, before it accepts a WebSocket. Used by `before.py` only. It has the two faults.

1. In development any token is believed, so that the end-to-end tests pass on every laptop and were never admitted by
   the real check.
2. The circuit breaker counts an answer 401 as a failure of the auth service. Three bad tokens, of anybody, and it
   opens for everybody.
"""

import os
import time

import httpx2
import jwt
from fastapi import WebSocket

THRESHOLD = 3
OPEN_S = 60.0


class CircuitOpen(Exception):
    """The auth service is believed to be down."""


class AuthClient:
    """Asks the auth service, through a circuit breaker."""

    def __init__(self) -> None:
        self._http = httpx2.AsyncClient(base_url=os.environ.get("AUTH_URL", "http://127.0.0.1:9001"))
        self._failures = 0
        self._opened_at = 0.0

    async def subject(self, token: str) -> str | None:
        """Whose token it is; None: it is not valid."""
        if self._failures >= THRESHOLD and time.monotonic() - self._opened_at < OPEN_S:
            raise CircuitOpen("auth service unavailable")
        try:
            answer = await self._http.post("/introspect", json={"token": token})
            answer.raise_for_status()
        except httpx2.HTTPError:  # a 401 comes here too
            self._failures += 1
            self._opened_at = time.monotonic()
            return None
        self._failures = 0
        return str(answer.json()["subject"])


_auth = AuthClient()


async def authenticated(socket: WebSocket) -> str | None:
    """Whose the connection is; None: close it."""
    token = socket.headers.get("authorization", "").removeprefix("Bearer ")
    if not token:
        return None
    if os.environ.get("ENVIRONMENT", "development") == "development":
        return str(jwt.decode(token, options={"verify_signature": False})["sub"])
    return await _auth.subject(token)
