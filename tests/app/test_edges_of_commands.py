"""Edge cases of commands that no other test covers: refused tokens, expiry, engines that are down, binary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex.app.drain import close_paced
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.errors import DependencyError
from narthex.ports.agents import Agent
from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client, words
from tests.app.test_connection import parts_of

IN_MS = 1_800_000_000_000  # a time in milliseconds where seconds are expected: the year 2027


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[Agent(name="words", function=words)]) as found:
        yield found


async def closed(raw: Raw) -> int | None:
    with pytest.raises(ConnectionClosed):
        while True:
            await raw.step()
    return raw.socket.close_code


@pytest.mark.parametrize(("subject", "code"), [("bob", 3501), ("", 3500)])
async def test_a_refused_token_in_connect_closes_the_socket(
    running: Running, subject: str, code: int
) -> None:
    """Another user's token is a conflict and garbage is a bad token: both end the connection, with their codes."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        token = running.token(subject) if subject else "a.b.c"
        await socket.send(json.dumps({"id": 1, "connect": {"token": token}}))
        assert await closed(raw) == code


@pytest.mark.parametrize("ttl_s", [600, 1, None])
async def test_connect_and_refresh_say_whether_the_connection_expires(
    running: Running, monkeypatch: pytest.MonkeyPatch, ttl_s: int | None
) -> None:
    """`expires` and `ttl` go together, to the last second; an identity without an expiry has neither."""
    headers = {"Authorization": f"Bearer {running.token('ada', ttl_s=600)}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        (connection,) = await _opened(running)
        parts, admit = parts_of(running), connection.context.admit
        expires_at = parts.now() + ttl_s if ttl_s is not None else None
        identity = msgspec.structs.replace(admit.identity, expires_at=expires_at)
        connection.context.admit = msgspec.structs.replace(admit, identity=identity)
        for command, body in (("connect", {}), ("refresh", {"token": "t"})):
            told = (await raw.call(command, **body))[command]
            assert told.get("expires", False) is (ttl_s is not None)
            assert ("ttl" in told) is (ttl_s is not None)
            monkeypatch.setattr(parts.in_band, "admit", lambda *_: Admit(identity=identity))


async def _opened(running: Running) -> list[Any]:
    registry = parts_of(running).core.registry
    async with asyncio.timeout(10):
        while not len(registry):  # noqa: ASYNC110 - the server's end has no event here
            await asyncio.sleep(0.005)
    return list(registry)


async def test_an_rpc_whose_engine_is_away_is_answered_503(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary error that names the dependency: SDKs and pages may try again."""
    ada = await client(running, "ada")

    async def away(*_: object, **__: object) -> None:
        raise DependencyError("store", "The store is away.", "Start it.")

    monkeypatch.setattr(parts_of(running).core.chat, "create", away)
    error = (await ada.call("rpc", method="thread.create", data={}))["error"]
    assert (error["code"], error["temporary"]) == (503, True)
    assert "The store is away." in error["message"]


@pytest.mark.parametrize(
    ("command", "body", "code"),
    [
        ("subscribe", {"channel": "nowhere"}, 102),
        ("subscribe", {"channel": "user:ada"}, 105),
        ("subscribe", {"channel": "user:bob"}, 103),
        ("subscribe", {"channel": "thread:none"}, 103),
        ("history", {"channel": "thread:none"}, 103),
        ("presence", {"channel": "thread:none"}, 103),
        ("presence", {"channel": "user:ada"}, 108),
        ("presence_stats", {"channel": "thread:none"}, 103),
        ("presence_stats", {"channel": "user:ada"}, 108),
        ("publish", {"channel": "user:ada", "data": 1}, 103),
        ("unsubscribe", {"channel": "user:ada"}, 103),
        ("sub_refresh", {"channel": "user:ada", "token": "t"}, 108),
        ("refresh", {}, 107),
        ("rpc", {"method": "no.such"}, 104),
        ("rpc", {"method": "thread.get", "data": {}}, 400),
        ("rpc", {"method": "thread.get", "data": {"thread_id": "none"}}, 404),
        ("rpc", {"method": "run.steer", "data": {"run_id": "none", "text": "x"}}, 404),
        ("rpc", {"method": "thread.list", "data": {"before": IN_MS}}, 400),
        ("rpc", {"method": "thread.get", "data": {"thread_id": "none", "before": IN_MS}}, 400),
        ("rpc", {"method": "thread.outcomes", "data": {"thread_id": "none", "since": IN_MS}}, 400),
    ],
)
async def test_a_command_that_cannot_be_executed_is_answered_with_its_code(
    running: Running, command: str, body: dict[str, Any], code: int
) -> None:
    """The connection stays, and the next command is executed."""
    ada = await client(running, "ada")
    assert (await ada.call(command, **body))["error"]["code"] == code
    assert await ada.rpc("echo", n=1) == {"n": 1}


async def test_the_last_channel_that_fits_is_joined_and_the_next_is_not(running: Running) -> None:
    """The user's own channel counts; leaving a channel frees a place."""
    ada = await client(running, "ada")
    parts_of(running).core.subscriptions.channel_limit = 2
    first, second = [f"thread:{(await ada.rpc('thread.create'))['thread_id']}" for _ in range(2)]
    assert "subscribe" in await ada.call("subscribe", channel=first)
    assert (await ada.call("subscribe", channel=second))["error"]["code"] == 106
    await ada.call("unsubscribe", channel=first)
    assert "subscribe" in await ada.call("subscribe", channel=second)


async def test_a_refresh_that_cannot_be_judged_keeps_the_connection(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expired token and an issuer that is down are errors to retry after; another user's token ends it."""
    ada = await client(running, "ada")
    in_band = parts_of(running).in_band
    for code, number in (("token_expired", 110), ("auth_unavailable", 100)):
        monkeypatch.setattr(in_band, "admit", lambda *_, code=code: Refusal(code=code))
        assert (await ada.call("refresh", token="t"))["error"]["code"] == number
    bob = Admit(identity=Identity(subject="bob"))
    monkeypatch.setattr(in_band, "admit", lambda *_: bob)
    ada.number += 1
    await ada.socket.send(json.dumps({"id": ada.number, "refresh": {"token": "t"}}))
    assert await closed(ada) == 3501
    assert ada.number not in ada.replies


async def test_operators_see_the_refusals_that_the_commands_give_themselves(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header of `connect` that is no bearer token, and a refresh with the token of another user than the guest's."""
    parts = parts_of(running)
    shown: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        parts.fleet.refusals,
        "add",
        lambda refusal, carriers, **_: shown.append((refusal.code, carriers)),
    )
    ada = await client(running, "ada")
    monkeypatch.setattr(parts.in_band, "admit", lambda *_: Admit(identity=Identity(subject="bob")))
    await ada.socket.send(json.dumps({"id": 9, "refresh": {"token": "t"}}))
    assert await closed(ada) == 3501
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send(json.dumps({"id": 1, "connect": {"headers": {"Authorization": "Bearer a b"}}}))
        code = await closed(Raw(socket))
    assert [found for _, found in shown] == [("connect_token",), ("connect_header",)]
    assert shown[0][0] == "credential_conflict"
    assert (shown[1][0], code) == ("token_malformed", 3500)


async def test_a_binary_message_ends_the_connection_and_is_not_executed(running: Running) -> None:
    """3506, and no part of the message is executed."""
    ada = await client(running, "ada")
    await ada.socket.send(b'{"id":7,"rpc":{"method":"echo","data":{"n":1}}}')
    assert await closed(ada) == 3506
    assert 7 not in ada.replies


@pytest.mark.parametrize(
    ("ttl_s", "reason"),
    [
        (3_600.0, (3502, "silence: the credential is valid, but no connect came; send connect")),
        (-3_600.0, (3500, "token_expired: no fresh token came in time")),
        (None, (3502, "silence: no credential came in time; send connect with a token")),
    ],
)
async def test_a_silent_client_learns_what_is_missing(
    running: Running, ttl_s: float | None, reason: tuple[int, str]
) -> None:
    """A proved user needs only the command, an expired token a fresh one, and a bare connection a token."""
    headers = {} if ttl_s is None else {"Authorization": f"Bearer {running.token('ada', ttl_s=ttl_s)}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        (connection,) = parts_of(running).core.registry
        connection.wake(connection.session.silent_until)
        await closed(Raw(socket))
        assert (socket.close_code, socket.close_reason) == reason


async def test_exactly_as_much_as_may_be_recovered_is_recovered(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that missed the limit gets all of it; one that missed one more gets `recovered: false`."""
    ada = await client(running, "ada")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    parts = parts_of(running)
    monkeypatch.setattr(parts.core.subscriptions, "recovery_limit", 3)
    for missed, recovered in ((3, True), (4, False)):
        while (await parts.broker.history(f"default/thread:{thread}", limit=0)).top.offset < missed:
            await parts.broker.publish(f"default/thread:{thread}", b"1")
        wish = {"channel": f"thread:{thread}", "recover": True, "offset": 0, "epoch": ""}
        told = (await ada.call("subscribe", **wish))["subscribe"]
        assert told.get("recovered", False) is recovered
        assert len(told.get("publications") or ()) == (missed if recovered else 0)
        await ada.call("unsubscribe", channel=f"thread:{thread}")


class _Closable:
    def __init__(self) -> None:
        self.closed_at: float | None = None

    def close(self, _: object) -> None:
        self.closed_at = asyncio.get_running_loop().time()


async def test_closes_of_a_drain_are_counted_and_paced() -> None:
    """Every connection is closed once and counted, and three hundred of them are spread over the grace."""
    connections = [_Closable() for _ in range(300)]
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    ended.set()
    count = await close_paced(
        connections,
        lambda _: False,
        grace_s=1.0,
        runs_ended=ended,
        now=loop.time,
    )
    moments = sorted(one.closed_at for one in connections if one.closed_at is not None)
    assert (count, len(moments)) == (300, 300)
    assert moments[-1] - moments[0] > 0.4


async def test_the_ping_of_old_clients_is_answered_where_it_has_an_id(tmp_path: Path) -> None:
    """Without an id it wants no reply, and is none of the unknown commands."""
    async with gateway(tmp_path) as running:
        raw = await client(running, "ada")
        assert (await raw.call("ping"))["ping"] == {}
        await raw.socket.send('{"ping":{}}')
        assert (await raw.rpc("time")) is not None


async def test_every_kind_of_control_message_has_its_handler(tmp_path: Path) -> None:
    """What one node sends the others: without a handler it would be counted as ignored, and nothing would happen."""
    async with gateway(tmp_path) as running:
        parts = running.gateway.parts
        assert parts is not None
        kinds = {
            "run",
            "runs_available",
            "revoke",
            "disconnect",
            "subscribe",
            "unsubscribe",
            "drain",
            "emulation",
        }
        assert kinds <= set(parts.core.controls._handlers)
