"""Clients that take protobuf, over real sockets: chosen by subprotocol and content type, beside clients of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from narthex.testing import Running
from tests.app.test_commands import client, running, spoken
from tests.protocol import centrifuge_schema as oracle
from tests.protocol.test_swift_and_dart import dart

__all__ = ["running"]

PROTOBUF = Subprotocol("centrifuge-protobuf")
OCTETS = {"Content-Type": "application/octet-stream"}


def command(number: int, **members: Any) -> Any:
    """A command of the published schema; `rpc=(method, data)`, else a member with its fields."""
    made = oracle.Command(id=number)
    for name, body in members.items():
        target = getattr(made, name)
        target.SetInParent()
        if name == "rpc":
            target.method, target.data = body[0], json.dumps(body[1]).encode()
        else:
            for field, value in body.items():
                setattr(target, field, value)
    return made


class Binary:
    """A raw client in protobuf: Google's library makes its commands and reads its replies."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.replies: dict[int, Any] = {}
        self.pushes: list[Any] = []
        self.pings = 0
        self.number = 0

    async def step(self) -> None:
        message = await asyncio.wait_for(self.socket.recv(), 10)
        assert isinstance(message, bytes)
        for reply in oracle.replies(message):
            if reply.HasField("push"):
                self.pushes.append(reply.push)
            elif reply.id:
                self.replies[reply.id] = reply
            else:
                self.pings += 1
                await self.socket.send(b"\x00")

    async def call(self, **members: Any) -> Any:
        self.number += 1
        await self.socket.send(oracle.frame(command(self.number, **members)))
        while self.number not in self.replies:
            await self.step()
        return self.replies[self.number]

    async def publications(self, channel: str, count: int) -> list[Any]:
        while True:
            found = [push.pub for push in self.pushes if push.channel == channel and push.HasField("pub")]
            if len(found) >= count:
                return found
            await self.step()


async def binary(running: Running, subject: str, *more: str, **identity: Any) -> Binary:
    """Connected and live."""
    headers = {"Authorization": f"Bearer {running.token(subject, **identity)}"}
    offered = [PROTOBUF, *map(Subprotocol, more)]
    socket = await connect(running.ws, additional_headers=headers, subprotocols=offered, proxy=None)
    assert socket.subprotocol == PROTOBUF
    found = Binary(socket)
    reply = await found.call(connect={})
    assert reply.connect.subs[f"user:{subject}"].positioned
    assert (reply.connect.ping, reply.connect.pong) == (1, True)
    return found


async def test_both_formats_follow_one_thread_live_and_recovered(running: Running) -> None:
    """The same publications at the same offsets, whoever published; presence and history agree."""
    text, ada = await client(running, "ada"), await binary(running, "ada")
    thread = (await text.rpc("thread.create"))["thread_id"]
    channel = f"thread:{thread}"
    await text.call("subscribe", channel=channel)
    assert (await ada.call(subscribe={"channel": channel})).subscribe.recoverable
    await spoken(text, "one two three", thread)
    count = (await text.call("history", channel=channel, limit=0))["history"]["offset"]
    live = await ada.publications(channel, count)
    while sum("pub" in push for push in text.pushes if push["channel"] == channel) < count:
        await text.step()
    seen = [push["pub"] for push in text.pushes if push["channel"] == channel and "pub" in push]
    assert [(pub.offset, json.loads(pub.data)) for pub in live] == [
        (pub["offset"], pub["data"]) for pub in seen
    ]
    history = (await ada.call(history={"channel": channel, "limit": -1})).history
    assert [pub.data for pub in history.publications] == [pub.data for pub in live]
    present = (await ada.call(presence={"channel": channel})).presence.presence
    shown = (await text.call("presence", channel=channel))["presence"]["presence"]
    assert {key: info.user for key, info in present.items()} == {
        key: info["user"] for key, info in shown.items()
    }
    assert (await ada.call(presence_stats={"channel": channel})).presence_stats.num_clients == 2
    again = await binary(running, "ada")
    subscribed = (await again.call(subscribe={"channel": channel, "recover": True})).subscribe
    assert (subscribed.recovered, subscribed.was_recovering) == (True, True)
    assert [pub.data for pub in subscribed.publications] == [pub.data for pub in live]
    assert (await ada.call(unsubscribe={"channel": channel})).HasField("unsubscribe")
    assert (await ada.call(rpc=("echo", {"x": [1]}))).rpc.data == b'{"x": [1]}'
    assert (await ada.call(rpc=("nothing", None))).error.code == 104


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"a": [1.0, 2],\t"b" : "z"}', b'{"a": [1.0, 2],\t"b" : "z"}'),
        (b'{"a": 1,\n "b": 2}', b'{"a":1,"b":2}'),
        (b'{"a": 1,\r "b": "c d"}', b'{"a":1,"b":"c d"}'),
    ],
)
async def test_a_published_payload_is_kept_as_it_is(running: Running, sent: bytes, kept: bytes) -> None:
    """Byte for byte; but the white space goes where it has the end of a line, which ends a message on HTTP streams."""
    service = await binary(running, "service", permissions=frozenset({"admin"}))
    ada = await binary(running, "ada")
    reply = await service.call(publish={"channel": "user:ada", "data": sent})
    assert not reply.HasField("error")
    assert (await ada.publications("user:ada", 1))[0].data == kept


async def test_a_service_that_publishes_is_the_publications_info(running: Running) -> None:
    """In protobuf as in JSON, live and in history."""
    service = await binary(running, "service", permissions=frozenset({"admin"}))
    ada = await binary(running, "ada")
    reply = await service.call(publish={"channel": "user:ada", "data": b'{ "a": 1 }'})
    assert reply.HasField("publish")
    (live,) = await ada.publications("user:ada", 1)
    assert (live.data, live.info.user, live.info.client) == (
        b'{ "a": 1 }',
        "service",
        service.replies[1].connect.client,
    )
    (kept,) = (await ada.call(history={"channel": "user:ada", "limit": 10})).history.publications
    assert kept == live


async def test_pings_and_batches_in_protobuf(running: Running) -> None:
    """A ping is one empty reply, and a frame may hold many commands."""
    ada = await binary(running, "ada")
    while not ada.pings:
        await ada.step()
    await ada.socket.send(oracle.frame(*[command(number, rpc=("echo", number)) for number in (50, 51, 52)]))
    while 52 not in ada.replies:
        await ada.step()
    assert [ada.replies[number].rpc.data for number in (50, 51, 52)] == [b"50", b"51", b"52"]


@pytest.mark.parametrize(
    ("protobuf", "message", "code"),
    [
        (True, '{"id":1,"connect":{}}', 3506),
        (False, b"\x04\x08\x01\x22\x00", 3506),
        (True, b"\x04\x08\x01\x22\x07", 3501),
        (True, b"\x06\x6a\x04\x0a\x02{]", 3501),
    ],
)
async def test_the_other_format_and_bad_bytes_end_the_connection(
    running: Running, protobuf: bool, message: str | bytes, code: int
) -> None:
    """3506 says which form is expected; a damaged frame is a bad request in either."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    offered = [PROTOBUF] if protobuf else None
    async with connect(running.ws, additional_headers=headers, subprotocols=offered, proxy=None) as socket:
        await socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    if code == 3506:
        assert ("binary messages" if protobuf else "centrifuge-protobuf") in closed.value.rcvd.reason


async def test_it_is_selected_beside_the_credential_of_a_browser(running: Running) -> None:
    """A page offers its token and `narthex.explain` too; the selected name is the format's."""
    offered = [PROTOBUF, "jwt-auth", f"jwt.{running.token('ada')}", "narthex.explain"]
    async with connect(
        running.ws, subprotocols=[Subprotocol(name) for name in offered], proxy=None
    ) as socket:
        assert socket.subprotocol == PROTOBUF
        assert (await Binary(socket).call(connect={})).connect.subs["user:ada"].positioned
    refused = [PROTOBUF, "jwt-auth", "jwt.a.b.c", "narthex.explain"]
    async with connect(
        running.ws, subprotocols=[Subprotocol(name) for name in refused], proxy=None
    ) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 3500


async def messages(stream: httpx2.Response) -> AsyncIterator[Any]:
    """The replies of a streamed response, as their bytes come."""
    pending = b""
    async for chunk in stream.aiter_raw():
        pending += chunk
        while pending and len(pending) > pending[0] and pending[0] < 0x80:
            size = pending[0] + 1
            for reply in oracle.replies(pending[:size]):
                yield reply
            pending = pending[size:]
        if pending and pending[0] >= 0x80:
            for reply in oracle.replies(pending):
                yield reply
            pending = b""


async def test_http_streaming_and_emulation_by_content_type(running: Running) -> None:
    """The same protocol over a streamed POST; commands through /emulation."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=10) as http:
        body = oracle.frame(command(1, connect={}))
        opened = http.stream("POST", "/connection/http_stream", content=body, headers=headers | OCTETS)
        async with opened as stream:
            assert stream.headers["content-type"] == "application/octet-stream"
            replies = messages(stream)
            connected = (await anext(replies)).connect

            async def post(data: bytes, session: str = connected.session) -> int:
                request = oracle.EmulationRequest(node=connected.node, session=session, data=data)
                answer = await http.post("/emulation", content=request.SerializeToString(), headers=OCTETS)
                return answer.status_code

            assert await post(oracle.frame(command(2, rpc=("echo", 7)))) == 204
            assert (await anext(replies)).rpc.data == b"7"
            assert await post(b"\x00", session="guess") == 404
            assert (await http.post("/emulation", content=b"\x0a\xff", headers=OCTETS)).status_code == 400
            await post(b"garbage")
            while not (reply := await anext(replies)).push.HasField("disconnect"):
                pass
            assert reply.push.disconnect.code == 3501


async def test_a_session_of_the_swift_and_dart_sdks_is_replayed(running: Running) -> None:
    """The frames of their sources in their order: connect, follow, ask, answer pings, come back with a position."""
    text = await client(running, "ada")
    thread = (await text.rpc("thread.create"))["thread_id"]
    await spoken(text, "one two", thread)
    channel = f"thread:{thread}"
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with connect(running.ws, additional_headers=headers, subprotocols=[PROTOBUF], proxy=None) as socket:
        swift = Binary(socket)
        connected = (await swift.call(connect={"name": "swift", "version": ""})).connect
        subscribed = (await swift.call(subscribe={"channel": channel})).subscribe
        history = (await swift.call(history={"channel": channel, "limit": 100})).history
        assert [pub.offset for pub in history.publications] == list(range(1, subscribed.offset + 1))
        while not swift.pings:
            await swift.step()
    epoch = connected.subs["user:ada"].epoch
    async with connect(running.ws, additional_headers=headers, subprotocols=[PROTOBUF], proxy=None) as socket:
        user = dart((1, "user:ada"), (2, dart((3, 1), (6, epoch), (7, 0))))
        frames = [
            dart((1, 1), (4, dart((1, ""), (3, user), (4, "dart"), (5, "")))),
            dart(
                (1, 2),
                (5, dart((1, channel), (3, 1), (6, subscribed.epoch), (7, 1), (9, 0), (10, 1), (11, 0))),
            ),
            dart((1, 3), (13, dart((1, b""), (2, "whoami")))),
            dart((1, 0)),
        ]
        await socket.send(oracle.length(frames[0]) + frames[0])
        again = Binary(socket)
        while 1 not in again.replies:
            await again.step()
        missed = again.replies[1].connect.subs["user:ada"]
        assert (missed.recovered, missed.publications[0].offset) == (True, 1)
        for raw in frames[1:]:
            await socket.send(oracle.length(raw) + raw)
        while not {2, 3} <= set(again.replies):
            await again.step()
        recovered = again.replies[2].subscribe
        assert [pub.offset for pub in recovered.publications] == list(range(2, recovered.offset + 1))
        assert json.loads(again.replies[3].rpc.data)["user"] == "ada"
