"""The handshake check against real servers: a sound gateway, and every fault of a broken one."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from narthex.adapters.edge.self_probe import SelfProbe, reachable
from narthex.app.health import CheckFailed

TICKET = "a-good-ticket"


class Gateway:
    """A gateway of a few lines, with faults to switch on.

    Attributes:
        inert: a client without a credential is upgraded inert instead of refused.
        fault: its fault.
    """

    def __init__(self, *, inert: bool = False, fault: str = "") -> None:
        self.inert = inert
        self.fault = fault
        self.seen: list[str] = []

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Before the upgrade."""
        self.seen.append(request.headers["Host"])
        ticket = parse_qs(urlsplit(request.path).query).get("ticket", [""])[0]
        if self.fault == "nobody" or (ticket and ticket != TICKET):
            return self.refuse(connection, "ticket_invalid" if ticket else "auth_required")
        if self.fault == "bare":
            return connection.respond(HTTPStatus.FORBIDDEN, "")
        if not ticket and not self.inert and self.fault != "everybody":
            return self.refuse(connection, "auth_required")
        return None

    def refuse(self, connection: ServerConnection, code: str) -> Response:
        """As problem+json."""
        return connection.respond(HTTPStatus.UNAUTHORIZED, json.dumps({"code": code}))

    async def __call__(self, connection: ServerConnection) -> None:
        """After the upgrade."""
        request = connection.request
        assert request is not None
        proven = "ticket=" in request.path or self.fault == "everybody"
        async for text in connection:
            command = json.loads(text)
            if not proven:
                await connection.close(3500, "auth_required: Authentication required")
            elif self.fault == "closes":
                await connection.close(1011, "internal: a bug")
            elif self.fault == "babbles":
                await connection.send("5")
            elif "connect" in command:
                push = '{"push":{"channel":"user:probe","join":{}}}'
                await connection.send(
                    push + "\n" + json.dumps({"id": command["id"], "connect": {"client": "c"}})
                )
            elif self.fault == "no rpc":
                error = {"code": 104, "message": "method not found"}
                await connection.send(json.dumps({"id": command["id"], "error": error}))
            else:
                data = {} if self.fault == "deaf" else command["rpc"]["data"]
                await connection.send(json.dumps({"id": command["id"], "rpc": {"data": data}}))


async def good_ticket() -> str:
    """A ticket."""
    return TICKET


@contextlib.asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[tuple[str, int]]:
    """Its address."""
    async with serve(gateway, "127.0.0.1", 0, process_request=gateway.admit) as server:
        yield server.sockets[0].getsockname()[:2]


async def probe(
    gateway: Gateway, *, auth_required: bool, ticket: Callable[[], Awaitable[str]] = good_ticket
) -> str:
    """The probe's result."""
    async with serving(gateway) as address:
        return await SelfProbe(lambda: address, ticket, auth_required=auth_required)()


async def test_a_sound_gateway_that_requires_a_credential() -> None:
    """Admits the ticket, refuses a client without a credential."""
    gateway = Gateway()
    assert await probe(gateway, auth_required=True) == "connect and echo with a ticket, refused without"
    assert len(gateway.seen) == 2
    assert all(host.startswith("localhost:") for host in gateway.seen)


async def test_a_sound_gateway_that_lets_people_prove_themselves_in_band() -> None:
    """Admits the ticket, closes a client that connects without a credential."""
    assert (
        await probe(Gateway(inert=True), auth_required=False)
        == "connect and echo with a ticket, inert without"
    )


@pytest.mark.parametrize(
    ("fault", "inert", "said"),
    [
        ("nobody", False, "a valid ticket was refused: ticket_invalid"),
        ("bare", False, "a valid ticket was refused: HTTP 403"),
        ("everybody", False, "a connection without a credential was upgraded"),
        ("everybody", True, "a connection without a credential was admitted"),
        ("closes", False, "closed after the upgrade: 1011 internal: a bug"),
        ("no rpc", False, "rpc got error 104"),
        ("deaf", False, "the echo reply differs from the message sent"),
        ("babbles", False, "connect got a malformed reply: Expected `object`, got `int` - at `$[0]`"),
    ],
)
async def test_a_broken_gateway_fails_with_what_is_broken(fault: str, inert: bool, said: str) -> None:
    """A gateway that admits all clients is as broken as one that admits none."""
    with pytest.raises(CheckFailed) as caught:
        await probe(Gateway(inert=inert, fault=fault), auth_required=not inert)
    assert str(caught.value) == said


async def test_a_gateway_that_is_stricter_than_its_policy_fails() -> None:
    """Clients that should authenticate in-band could not."""
    with pytest.raises(CheckFailed, match="without a credential was refused: auth_required"):
        await probe(Gateway(), auth_required=False)


async def test_a_gateway_that_does_not_listen_fails() -> None:
    """As a failed check, not as an exception of the library."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
        with pytest.raises(CheckFailed, match="no handshake over loopback"):
            await SelfProbe(lambda: address, good_ticket, auth_required=True)()


async def test_no_failure_shows_the_ticket() -> None:
    """Health is public."""

    async def bad_ticket() -> str:
        return "a-ticket-that-is-refused"

    with pytest.raises(CheckFailed) as caught:
        await probe(Gateway(), auth_required=True, ticket=bad_ticket)
    assert "a-ticket" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("", "127.0.0.1"), ("10.0.0.5", "10.0.0.5"), ("::1", "::1")],
)
def test_where_a_server_is_reached_from_its_own_machine(host: str, address: str) -> None:
    """A wildcard is not an address to connect to."""
    assert reachable(host) == address
