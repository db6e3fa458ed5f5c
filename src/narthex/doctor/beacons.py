"""Finds a narthex behind an endpoint by its beacon, and says where its routes are and what its WebSocket carries.

Not here: questions to those routes. Rules: nothing is sent but a request without a credential.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from narthex.doctor.documents import json_object
from narthex.doctor.exchanging import Line, exchange
from narthex.doctor.observations import Attempt

APPLICATION = "application"


class Beacon(NamedTuple):
    """A narthex's answer. `routes` is the path of its routes without their name, such as `/ws`."""

    routes: str
    body: dict[str, Any]

    @property
    def application(self) -> bool:
        """Whether the messages on the socket are another application's (docs/guard.md)."""
        return self.body.get("wire") == APPLICATION


async def find_beacon(line: Line, address: str) -> Beacon | None:
    """The beacon of the narthex that serves the line's target; None where there is none."""
    for path in line.target.route_paths("beacon"):
        made = await exchange(line, address, Attempt(name="beacon", upgrade=False, bare=True, path=path))
        body = json_object(made.body) if made.end == "response" else None
        if body is not None and body.get("beacon") == "narthex":
            return Beacon(path.removesuffix("/beacon"), body)
    return None
