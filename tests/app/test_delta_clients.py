"""Clients that ask for deltas, over real sockets: live and recovered publications, in JSON and protobuf."""

from __future__ import annotations

import json
from typing import Any

import pytest
from centrifuge.fossil import apply_delta
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from narthex.app.commands import reading
from narthex.ports.broker import Position
from narthex.testing import Running
from tests.app.test_commands import Raw, client, running, spoken
from tests.app.test_protobuf_clients import binary

__all__ = ["running"]


def decoded(publications: list[dict[str, Any]]) -> list[Any]:
    """The events of successive publications, as an SDK decodes them in JSON."""
    found, got = [], b""
    for publication in publications:
        data = publication["data"].encode()
        got = bytes(apply_delta(got, data)) if publication.get("delta") else data
        found.append(json.loads(got))
    return found


async def pubs(raw: Raw, channel: str, offset: int) -> list[dict[str, Any]]:
    """The pushed publications of a channel up to this offset."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["offset"] < offset:
        push = await raw.push("pub")
        if push["channel"] == channel:
            found.append(push["pub"])
    return found


async def log_of(running: Running, channel: str) -> list[Any]:
    """The channel's events, from the log."""
    parts = running.gateway.parts
    assert parts is not None
    page = await parts.core.broker.history(f"default/{channel}", since=Position(0, ""), limit=10_000)
    return [json.loads(publication.data) for publication in page.publications]


async def test_live_and_recovered_publications_are_deltas(running: Running) -> None:
    """The first is whole, the next are deltas; a second client recovers all of them, and goes on live."""
    raw = await client(running, "ada")
    thread = (await spoken(raw, "hello"))["thread_id"]
    channel = f"thread:{thread}"
    reply = await raw.call("subscribe", channel=channel, delta="fossil")
    assert reply["subscribe"]["delta"] is True
    await spoken(raw, "one two three four five six", thread)
    log = await log_of(running, channel)
    live = await pubs(raw, channel, len(log))
    assert "delta" not in live[0]
    assert sum(publication.get("delta", False) for publication in live) > len(live) / 2
    assert decoded(live) == log[live[0]["offset"] - 1 :]

    other = await client(running, "ada")
    since: dict[str, Any] = {"recover": True, "offset": 0, "epoch": "", "delta": "fossil"}
    recovered = (await other.call("subscribe", channel=channel, **since))["subscribe"]
    assert (recovered["recovered"], recovered["delta"]) == (True, True)
    assert decoded(recovered["publications"]) == log
    assert "delta" not in recovered["publications"][0]
    assert any(publication.get("delta") for publication in recovered["publications"])
    await spoken(raw, "again", thread)
    whole = await log_of(running, channel)
    more = await pubs(other, channel, len(whole))
    assert decoded([*recovered["publications"], *more]) == whole


async def test_clients_of_protobuf_get_the_same_deltas(running: Running) -> None:
    """As bytes, without a string around them."""
    raw = await client(running, "ada")
    thread = (await spoken(raw, "hello there"))["thread_id"]
    channel = f"thread:{thread}"
    taker = await binary(running, "ada")
    asked = {"channel": channel, "recover": True, "delta": "fossil"}
    recovered = (await taker.call(subscribe=asked)).subscribe
    assert (recovered.recovered, recovered.delta) == (True, True)
    log = await log_of(running, channel)
    await spoken(raw, "one two three four five", thread)
    whole = await log_of(running, channel)
    live = await taker.publications(channel, len(whole) - len(log))
    got, found = b"", []
    for publication in [*recovered.publications, *live]:
        got = bytes(apply_delta(got, publication.data)) if publication.delta else publication.data
        found.append(json.loads(got))
    assert found == whole
    assert not recovered.publications[0].delta
    assert sum(publication.delta for publication in live) > len(live) / 2


async def test_no_deltas_unless_asked_for(running: Running) -> None:
    """Whole publications, and no word of deltas in the reply, beside a client that takes them."""
    asks, asks_not = await client(running, "ada"), await client(running, "ada")
    thread = (await spoken(asks, "hello"))["thread_id"]
    channel = f"thread:{thread}"
    await asks.call("subscribe", channel=channel, delta="fossil")
    reply = await asks_not.call("subscribe", channel=channel)
    assert "delta" not in reply["subscribe"]
    await asks.rpc("run.start", text="one two three", thread_id=thread, client_message_id="m")
    ended = [await asks_not.push("pub")]
    while ended[-1]["channel"] != channel or ended[-1]["pub"]["data"]["type"] != "RUN_FINISHED":
        ended.append(await asks_not.push("pub"))
    assert all("delta" not in push["pub"] for push in ended)


async def test_another_format_is_refused(running: Running) -> None:
    """As in the reference: 3501, with the format that is known."""
    raw = await client(running, "ada")
    with pytest.raises(ConnectionClosed) as closed:
        await raw.call("subscribe", channel="thread:x", delta="vcdiff")
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "fossil" in closed.value.rcvd.reason) == (3501, True)


async def test_the_users_own_channel_has_no_deltas(running: Running) -> None:
    """The server subscribes to it; SDKs apply deltas only in subscriptions of their own."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
        raw = Raw(socket)
        reply = await raw.call("connect", subs={"user:ada": {"delta": "fossil"}})
        assert "delta" not in reply["connect"]["subs"]["user:ada"]
        await raw.rpc("thread.create", title="one")
        await raw.rpc("thread.create", title="two")
        for _ in range(2):
            assert isinstance((await raw.push("pub"))["pub"]["data"], dict)


async def test_a_long_recovery_has_deltas_in_its_first_part(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work for one client is bounded: after the first ones the publications are whole."""
    monkeypatch.setattr(reading, "MOST_DELTAS", 3)
    raw = await client(running, "ada")
    thread = (await spoken(raw, "one two three four five six"))["thread_id"]
    channel = f"thread:{thread}"
    reply = await raw.call("subscribe", channel=channel, recover=True, delta="fossil")
    publications = reply["subscribe"]["publications"]
    assert decoded(publications) == await log_of(running, channel)
    assert not any(publication.get("delta") for publication in publications[3:])
    assert len(publications) > 5
