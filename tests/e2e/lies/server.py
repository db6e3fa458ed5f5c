"""Forwards HTTP and WebSocket to a real gateway byte for byte, except for the change of one `Lie`.

Not here: the lies (`lies`). Rules: a `Lie` sees parsed requests, answers, commands, replies, pushes and closes, and by
default returns each as it is; frames keep their fragmentation; compression is not offered to the gateway, so that every
frame can be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any, Final, Self

Message = dict[str, Any]
TEXT: Final = 1
CLOSE: Final = 8
HEAD_LIMIT: Final = 2**17


@dataclass
class Request:
    """An HTTP request, upgrades included."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def path(self) -> str:
        """Without the query."""
        return self.target.partition("?")[0]

    @property
    def upgrades(self) -> bool:
        """Whether it asks for a WebSocket."""
        return self.header("upgrade").lower() == "websocket"

    def header(self, name: str) -> str:
        """A header's value; empty when it is absent."""
        return next((value for found, value in self.headers if found.lower() == name), "")

    def without(self, *names: str) -> Request:
        """The request without some headers."""
        kept = [(found, value) for found, value in self.headers if found.lower() not in names]
        return Request(self.method, self.target, kept, self.body)

    def bearing(self, token: str) -> Request:
        """The request with this token as its only credential."""
        bare = self.without("authorization", "sec-websocket-protocol", "x-e2e-bypass-key")
        return Request(
            self.method, self.path, [*bare.headers, ("Authorization", f"Bearer {token}")], self.body
        )


@dataclass
class Response:
    """An HTTP answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""

    def json(self) -> Any:
        """The body, parsed; None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def saying(self, body: Any, status: int | None = None) -> Response:
        """The answer with another JSON body."""
        return Response(self.status if status is None else status, self.headers, json.dumps(body).encode())


@dataclass
class Line:
    """One WebSocket connection between a client and the gateway."""

    request: Request
    number: int
    to_client: asyncio.StreamWriter
    to_server: asyncio.StreamWriter
    commands: dict[int, Message] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)

    def tell(self, message: Message) -> None:
        """Send the client a message of the server's own."""
        write_frame(self.to_client, TEXT, json.dumps(message).encode(), masked=False)

    def shut(self, code: int, reason: str) -> None:
        """Close the client's side."""
        write_frame(self.to_client, CLOSE, struct.pack("!H", code) + reason.encode(), masked=False)


class Lie:
    """Changes nothing. One subclass per lie.

    Attributes:
        good: a token that the gateway admits, for lies that admit what the gateway would refuse.
    """

    good = ""

    async def request(self, request: Request) -> Request:
        """Before the gateway sees a request or an upgrade."""
        return request

    async def response(self, request: Request, response: Response) -> Response:
        """Before the client sees an HTTP answer; not of an upgrade that succeeded."""
        return response

    async def upgraded(self, request: Request, response: Response) -> Response:
        """Before the client sees a 101."""
        return response

    def command(self, line: Line, command: Message) -> Message | None:
        """Before the gateway sees a command; None drops it."""
        return command

    def fragment(self, line: Line, final: bool, payload: bytes) -> bytes:
        """Before the gateway sees a fragment of a message."""
        return payload

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        """Before the client sees a reply; None drops it."""
        return reply

    async def push(self, line: Line, push: Message) -> list[Message]:
        """Before the client sees a push; all messages to send instead."""
        return [{"push": push}]

    def ping(self) -> bool:
        """Whether the client gets the gateway's ping."""
        return True

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        """Before the client sees a close."""
        return code, reason

    def batch(self, messages: list[Message]) -> list[Message]:
        """All messages of one frame, in order."""
        return messages


class LyingServer:
    """Serves on loopback in front of a gateway.

    Args:
        port: of the real gateway on 127.0.0.1.
        lie: the change.
    """

    def __init__(self, port: int, lie: Lie) -> None:
        self._port = port
        self._lie = lie
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._lines = 0

    @property
    def url(self) -> str:
        """Its URL."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=HEAD_LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the task is this server's own, and asyncio logs the end of one that was cancelled
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_request(reader)
        asked = await self._lie.request(request)
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._port, limit=HEAD_LIMIT)
        try:
            headers = list(asked.without("sec-websocket-extensions", "content-length").headers)
            if not asked.upgrades:
                headers = [pair for pair in headers if pair[0].lower() != "connection"]
                headers += [("Connection", "close"), ("Content-Length", str(len(asked.body)))]
            _write_head(upstream, f"{asked.method} {asked.target} HTTP/1.1", headers)
            upstream.write(asked.body)
            status, answered = await _read_head(upstream_reader)
            if status == 101:
                response = await self._lie.upgraded(request, Response(101, answered))
                _write_head(writer, f"HTTP/1.1 {response.status} -", response.headers)
                self._lines += 1
                line = Line(request, self._lines, writer, upstream)
                await self._forward(line, reader, upstream_reader)
                return
            body = b"" if request.method == "HEAD" else await _read_body(upstream_reader, answered)
            response = await self._lie.response(request, Response(status, answered, body))
            sent = [pair for pair in response.headers if pair[0].lower() not in _FRAMING]
            sent += [("Content-Length", str(len(response.body))), ("Connection", "close")]
            _write_head(writer, f"HTTP/1.1 {response.status} -", sent)
            writer.write(response.body)
            await writer.drain()
        finally:
            upstream.close()

    async def _forward(self, line: Line, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        from_client = asyncio.create_task(self._from_client(line, client))
        from_server = asyncio.create_task(self._from_server(line, server))
        ways = (from_client, from_server)
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not from_client.done():  # the client still answers the gateway's close
                await asyncio.wait(ways, timeout=1)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _from_client(self, line: Line, reader: asyncio.StreamReader) -> None:
        within_message = False
        while True:
            final, opcode, payload = await _read_frame(reader)
            if opcode == TEXT and final:
                kept = []
                for text in payload.split(b"\n"):
                    command = _parsed(text)
                    changed: Message | None = command
                    if command is not None:
                        if "id" in command:
                            line.commands[command["id"]] = command
                        changed = self._lie.command(line, command) if command else command
                        if changed is None:
                            continue
                    kept.append(text if changed == command else json.dumps(changed).encode())
                if not kept:
                    continue
                payload = b"\n".join(kept)
            elif opcode in (0, TEXT):
                if opcode == TEXT:
                    within_message = True
                if within_message:
                    payload = self._lie.fragment(line, final, payload)
                within_message = within_message and not final
            write_frame(line.to_server, opcode, payload, masked=True, final=final)
            await line.to_server.drain()

    async def _from_server(self, line: Line, reader: asyncio.StreamReader) -> None:
        while True:
            final, opcode, payload = await _read_frame(reader)
            if opcode == CLOSE:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
                code, reason = self._lie.closing(line, code, payload[2:].decode())
                payload = struct.pack("!H", code) + reason.encode()
            if opcode != TEXT:
                write_frame(line.to_client, opcode, payload, masked=False, final=final)
                await line.to_client.drain()
                continue
            messages: list[Message] = []
            for text in payload.split(b"\n"):
                messages += await self._told(line, json.loads(text))
            messages = self._lie.batch(messages)
            if messages:
                told = b"\n".join(json.dumps(message).encode() for message in messages)
                write_frame(line.to_client, TEXT, told, masked=False)
                await line.to_client.drain()

    async def _told(self, line: Line, message: Message) -> list[Message]:
        if not message:
            return [message] if self._lie.ping() else []
        if "push" in message:
            return await self._lie.push(line, message["push"])
        changed = await self._lie.reply(line, line.commands.get(message.get("id", 0), {}), message)
        return [] if changed is None else [changed]


_FRAMING: Final = ("content-length", "transfer-encoding", "connection")


def _parsed(text: bytes) -> Message | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write_head(writer: asyncio.StreamWriter, first: str, headers: list[tuple[str, str]]) -> None:
    lines = [first, *(f"{name}: {value}" for name, value in headers), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))


async def _read_lines(reader: asyncio.StreamReader) -> tuple[str, list[tuple[str, str]]]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    return first, [(name, value.strip()) for name, _, value in pairs]


async def _read_request(reader: asyncio.StreamReader) -> Request:
    first, headers = await _read_lines(reader)
    method, target, _ = first.split(" ")
    request = Request(method, target, headers)
    if length := int(request.header("content-length") or 0):
        request.body = await reader.readexactly(length)
    return request


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[str, str]]]:
    first, headers = await _read_lines(reader)
    return int(first.split(" ")[1]), headers


async def _read_body(reader: asyncio.StreamReader, headers: list[tuple[str, str]]) -> bytes:
    named = {name.lower(): value for name, value in headers}
    if "content-length" in named:
        return await reader.readexactly(int(named["content-length"]))
    if named.get("transfer-encoding", "").lower() != "chunked":
        return await reader.read()
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return body


async def _read_frame(reader: asyncio.StreamReader) -> tuple[bool, int, bytes]:
    """One frame, unmasked: whether it is final, its opcode, its payload."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        length = struct.unpack("!H", await reader.readexactly(2))[0]
    elif length == 127:
        length = struct.unpack("!Q", await reader.readexactly(8))[0]
    mask = await reader.readexactly(4) if second & 0x80 else b""
    payload = await reader.readexactly(length)
    if mask:
        repeated = (mask * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(length, "big")
    return bool(first & 0x80), first & 0x0F, payload


def write_frame(
    writer: asyncio.StreamWriter, opcode: int, payload: bytes, *, masked: bool, final: bool = True
) -> None:
    """One frame; a mask of zeros leaves the payload as it is."""
    head = bytes([opcode | (0x80 if final else 0)])
    flag, length = (0x80 if masked else 0), len(payload)
    if length < 126:
        head += bytes([flag | length])
    elif length < 2**16:
        head += bytes([flag | 126]) + struct.pack("!H", length)
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", length)
    with contextlib.suppress(OSError):
        writer.write(head + (bytes(4) if masked else b"") + payload)
