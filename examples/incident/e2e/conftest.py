"""How the end-to-end tests reach the chat, and how they prove who they are.

`--proof token` is the way of the incident: the harness signs a "simulated" token with its own key. `--proof key` shows
the key itself, which the server was given too. The tests do not know which.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import jwt
import pytest
from websockets.sync.client import ClientConnection, connect

URL = os.environ.get("CHAT_URL", "ws://127.0.0.1:8000/ws")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option `--proof`."""
    parser.addoption("--proof", choices=("token", "key"), default="key")


def proof(kind: str) -> dict[str, str]:
    """The headers with which a test connects."""
    key = os.environ["E2E_OAUTH_SIMULATION_KEY"]
    if kind == "key":
        return {"X-E2E-Bypass-Key": key, "X-E2E-Test-Run": "incident"}
    claims = {"sub": "e2e-user", "exp": int(time.time()) + 300}
    return {"Authorization": f"Bearer {jwt.encode(claims, key, 'HS256')}"}


class Chat:
    """One connection of a test."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.user = self.event()["user"]

    def say(self, text: str) -> None:
        """Send a raw message."""
        self._socket.send(text)

    def event(self) -> dict[str, Any]:
        """The next event."""
        found: dict[str, Any] = json.loads(self._socket.recv(timeout=10))
        return found

    def ask(self, run: str, question: str) -> list[dict[str, Any]]:
        """The events of one run."""
        self.say(json.dumps({"type": "chat", "id": run, "text": question}))
        events = [self.event()]
        while events[-1]["type"] not in ("agent_completed", "agent_failed"):
            events.append(self.event())
        return events

    def runs(self) -> dict[str, str]:
        """State by run."""
        self.say(json.dumps({"type": "runs"}))
        found: dict[str, str] = self.event()["runs"]
        return found


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[], Chat]]:
    """Opens a connection, which ends with the test."""
    headers = proof(request.config.getoption("--proof"))
    with ExitStack() as stack:
        yield lambda: Chat(stack.enter_context(connect(URL, additional_headers=headers, proxy=None)))
