"""OpenAI-compatible and AG-UI streams as endpoints write them, replayed byte for byte to the real program.

Nothing of an endpoint is dropped in silence: text in any shape and errors with their cause are shown, and a part that
the gateway does not understand is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance.program import running
from tests.acceptance.sdk import Person, person
from tests.campaigns.follower import SERVED, token
from tests.timing import within

pytestmark = pytest.mark.acceptance


class Case(NamedTuple):
    """The bytes that are replayed, cut at these places, and their result.

    Attributes:
        pieces: written one after the other, each in a packet of its own.
        text: of the answer, as the store has it.
        error: the code of RUN_ERROR; empty: the run succeeds.
        words: of the error, as users see it.
        custom: names of CUSTOM events that must be there, with a word of their value.
        kind: the content type.
    """

    pieces: tuple[bytes, ...]
    text: str = ""
    error: str = ""
    words: str = ""
    custom: tuple[tuple[str, str], ...] = ()
    kind: str = "text/event-stream"
    tools: tuple[tuple[str, str], ...] = ()


def chunk(content: Any = None, finish: Any = None, **delta: Any) -> bytes:
    """A chunk as most endpoints write it."""
    if content is not None:
        delta["content"] = content
    body = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}
    body["choices"][0]["finish_reason"] = finish  # type: ignore[index]  # a list of dicts
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STOP = chunk(finish="stop")
HIGH, LOW = (json.dumps("\U0001f600")[1:7].encode(), json.dumps("\U0001f600")[7:13].encode())


def raw(content: bytes) -> bytes:
    """A chunk whose content is written as it is."""
    return b'data: {"choices":[{"index":0,"delta":{"content":"' + content + b'"},"finish_reason":null}]}\n\n'


def call(arguments: Any = None, **more: Any) -> bytes:
    """A piece of a tool call."""
    name = more.pop("name", None)
    function: dict[str, Any] = {} if name is None else {"name": name}
    if arguments is not None:
        function["arguments"] = arguments
    return chunk(tool_calls=[{**more, "function": function}])


ACCENT = chunk("é ü 😀", None)
CUT = (
    ACCENT.replace(b"\\u00e9", "é".encode())
    .replace(b"\\u00fc", "ü".encode())
    .replace(HIGH + LOW, "😀".encode())
)

OPENAI = {
    "plain": Case((chunk("Hel"), chunk("lo"), STOP, DONE), "Hello"),
    "done-without-reason": Case((chunk("all of it"), DONE), "all of it"),
    "empty-reason": Case((chunk("a ", ""), chunk("b", ""), DONE), "a b"),
    "empty-reason-then-stop": Case((chunk("a ", ""), chunk("b", "stop"), DONE), "a b"),
    "halves": Case((raw(b"smile " + HIGH), raw(LOW + b" again"), STOP, DONE), "smile 😀 again"),
    "half-alone": Case((raw(b"smile " + HIGH), raw(b"no"), STOP, DONE), "smile �no"),
    "half-at-the-end": Case((raw(b"smile " + HIGH), STOP, DONE), "smile �"),
    "parts": Case(
        (chunk([{"type": "text", "text": "from "}, {"type": "text", "text": "parts"}]), STOP, DONE),
        "from parts",
    ),
    "strange-parts": Case(
        (chunk([{"type": "text", "text": "see "}, {"type": "image_url", "image_url": {}}]), STOP, DONE),
        "see ",
        custom=(("narthex.model_note", "image_url"),),
    ),
    "refusal": Case((chunk(refusal="I will "), chunk(refusal="not."), STOP, DONE), "I will not."),
    "bom": Case((b"\xef", b"\xbb\xbf" + chunk("first"), chunk(" second"), STOP, DONE), "first second"),
    "error-object": Case(
        (chunk("half "), b'data: {"error":{"message":"out of memory","code":500}}\n\n'),
        "half ",
        "agent_failed",
        "out of memory",
    ),
    "error-string": Case(
        (b'data: {"error":"model not loaded"}\n\n',), "", "agent_failed", "model not loaded"
    ),
    "error-event": Case(
        (chunk("half "), b'event: error\ndata: {"message":"rate limit of the model"}\n\n'),
        "half ",
        "agent_failed",
        "rate limit of the model",
    ),
    "error-event-text": Case(
        (b"event: error\ndata: upstream is down\n\n",), "", "agent_failed", "upstream is down"
    ),
    "error-data-text": Case(
        (chunk("so "), b"data: CUDA error: no kernel\n\n"), "so ", "agent_failed", "CUDA error"
    ),
    "error-bare-text": Case(
        (chunk("so "), b"Internal Server Error"), "so ", "agent_failed", "Internal Server Error"
    ),
    "error-detail": Case((b'data: {"detail":"no such model"}\n\n',), "", "agent_failed", "no such model"),
    "error-whole": Case(
        (b'{"error":{"message":"context is full"}}',),
        "",
        "agent_failed",
        "context is full",
        kind="application/json",
    ),
    "cut": Case((chunk("half "),), "half ", "agent_unavailable", "cut its answer short"),
    "nothing": Case((DONE,), "", "agent_unavailable", "answered nothing"),
    "crlf": Case(tuple(part.replace(b"\n", b"\r\n") for part in (chunk("a"), chunk("b"), STOP, DONE)), "ab"),
    "crlf-cut": Case((chunk("a").replace(b"\n", b"\r\n")[:-1], b"\n" + chunk("b"), STOP + DONE), "ab"),
    "unknown-fields": Case((b"timestamp: 12\n" + chunk("a"), b"x-request: 7\n\n", STOP, DONE), "a"),
    "cut-inside-a-chunk": Case(
        (chunk("half "), chunk("lost")[:30]), "half ", "agent_unavailable", "cut its answer short"
    ),
    "comments": Case(
        (b": OPENROUTER PROCESSING\n\n", chunk("a"), b": ping\n\n", chunk("b"), STOP, DONE), "ab"
    ),
    "keep-alives": Case(
        (
            b"\n\n",
            b"data:\n\n",
            chunk("a"),
            b"data: {}\n\n",
            b"event: ping\ndata: {}\n\n",
            b"event: ping\ndata: 1\n\n",
            b"data: null\n\n",
            chunk("b"),
            STOP,
            DONE,
        ),
        "ab",
    ),
    "split-utf-8": Case((*(CUT[at : at + 1] for at in range(len(CUT))), STOP, DONE), "é ü 😀"),
    "usage": Case(
        (
            chunk("a"),
            STOP,
            b'data: {"choices":[],"usage":{"total_tokens":7}}\n\n',
            b'data: {"usage":null}\n\n',
            DONE,
        ),
        "a",
    ),
    "no-blank-line-at-the-end": Case((chunk("a"), STOP, b"data: [DONE]"), "a"),
    "last-chunk-without-end": Case((chunk("a"), chunk(" b", "stop").rstrip(b"\n")), "a b"),
    "json-lines": Case((chunk("a")[6:-1], chunk("b", "stop")[6:-1]), "ab", kind="application/x-ndjson"),
    "whole": Case(
        (b'{"choices":[{"message":{"role":"assistant","content":"at once"},"finish_reason":"stop"}]}',),
        "at once",
        kind="application/json; charset=utf-8",
    ),
    "whole-behind-parts": Case(
        (chunk("a"), b'data: {"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}\n\n', DONE), "a"
    ),
    "no-choices": Case(
        (chunk("a"), b'data: {"telemetry":{"x":1}}\n\n', STOP, DONE),
        "a",
        custom=(("narthex.model_note", "telemetry"),),
    ),
    "two-choices": Case(
        (chunk("a"), b'data: {"choices":[{"index":1,"delta":{"content":"other"}}]}\n\n', STOP, DONE),
        "a",
        custom=(("narthex.model_note", "more than one choice"),),
    ),
    "length": Case((chunk("a lo", "length"), DONE), "a lo", custom=(("narthex.model_stopped", "length"),)),
    "tools": Case(
        (
            call('{"a":', index=0, id="t1", name="look"),
            call("1}", index=0),
            call("{}", index=1, id="t2", name="find"),
            chunk(finish="tool_calls"),
            DONE,
        ),
        tools=(("look", '{"a":1}'), ("find", "{}")),
        custom=(("narthex.model_stopped", "tool_calls"),),
    ),
    "tools-without-index": Case(
        (
            call('{"a":', id="t1", name="look"),
            call("1}", id="t1"),
            call("{}", id="t2", name="find"),
            chunk(finish="tool_calls"),
        ),
        tools=(("look", '{"a":1}'), ("find", "{}")),
    ),
    "tools-without-id": Case(
        (
            call('{"a":', index=0, name="look"),
            call("1}", index=0),
            call(None, index=0),
            chunk(finish="tool_calls"),
        ),
        tools=(("look", '{"a":1}'),),
    ),
    "tools-with-nothing": Case(
        (
            call("", name="look"),
            call('{"a":'),
            call("1}"),
            call({"b": 2}, name="find"),
            chunk(finish="tool_calls"),
        ),
        tools=(("look", '{"a":1}'), ("find", '{"b": 2}')),
    ),
    "tools-one-index": Case(
        (
            call("{}", index=0, id="t1", name="look"),
            call("{}", index=0, id="t2", name="find"),
            chunk(finish="stop"),
        ),
        tools=(("look", "{}"), ("find", "{}")),
    ),
    "tools-one-index-in-pieces": Case(
        (
            call("{", index=0, id="t1", name="look"),
            call("}", index=0),
            call("[", index=0, id="t2", name="find"),
            call("]", index=0),
            chunk(finish="stop"),
        ),
        tools=(("look", "{}"), ("find", "[]")),
    ),
    "tools-again-behind-parts": Case(
        (
            call("{}", index=0, id="t1", name="look"),
            b'data: {"choices":[{"message":{"tool_calls":[{"id":"t1","function":{"name":"look"}}]}}]}\n\n',
            chunk(finish="stop"),
        ),
        tools=(("look", "{}"),),
    ),
    "function-call": Case(
        (chunk(function_call={"name": "look", "arguments": "{}"}), chunk(finish="function_call")),
        tools=(("look", "{}"),),
    ),
}


def agui(*events: dict[str, Any] | bytes) -> tuple[bytes, ...]:
    """An AG-UI stream: events, or bytes as they are."""
    return tuple(
        event if isinstance(event, bytes) else b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in events
    )


BEGUN: tuple[dict[str, Any], ...] = (
    {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
    {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
)
OVER: tuple[dict[str, Any], ...] = (
    {"type": "TEXT_MESSAGE_END", "messageId": "m"},
    {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
)


def said(delta: str) -> dict[str, Any]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": delta}


def half(content: bytes) -> bytes:
    return b'data: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"' + content + b'"}\n\n'


AGUI = {
    "plain": Case(agui(*BEGUN, said("Hel"), said("lo"), *OVER), "Hello"),
    "bom": Case(agui(b"\xef\xbb", b"\xbf", *BEGUN, said("a"), *OVER), "a"),
    "halves": Case(agui(*BEGUN, half(b"smile " + HIGH), half(LOW + b"!"), *OVER), "smile 😀!"),
    "half-at-the-end": Case(agui(*BEGUN, half(b"smile " + HIGH), *OVER), "smile �"),
    "keep-alives": Case(
        agui(*BEGUN, b": ping\n\n", said("a"), b"data: {}\n\n", b"event: ping\ndata: 1\n\n", *OVER), "a"
    ),
    "crlf": Case(tuple(part.replace(b"\n", b"\r\n") for part in agui(*BEGUN, said("a"), *OVER)), "a"),
    "no-blank-line-at-the-end": Case((*agui(*BEGUN, said("a"), OVER[0]), agui(OVER[1])[0].rstrip()), "a"),
    "error-event": Case(
        agui(*BEGUN, said("half "), b'event: error\ndata: {"message":"graph failed"}\n\n'),
        "half ",
        "agent_failed",
        "graph failed",
    ),
    "error-text": Case(
        agui(*BEGUN, said("half "), b"data: Traceback: boom\n\n"), "half ", "agent_failed", "Traceback: boom"
    ),
    "error-bare-text": Case(
        agui(*BEGUN, said("half "), b"Internal Server Error\n"),
        "half ",
        "agent_failed",
        "Internal Server Error",
    ),
    "error-detail": Case(agui(b'data: {"detail":"no such graph"}\n\n'), "", "agent_failed", "no such graph"),
    "error-of-its-own": Case(
        agui(*BEGUN, said("half "), {"type": "RUN_ERROR", "message": "it broke", "code": "BROKEN"}),
        "half ",
        "agent_failed",
        "it broke",
    ),
    "cut": Case(agui(*BEGUN, said("half ")), "half ", "agent_event_order", "without RUN_FINISHED"),
}


class Replayed:
    """An HTTP server that answers each POST with a case's bytes, chosen by the path or by the model."""

    def __init__(self) -> None:
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:  # a connection on which nothing was requested
            writer.close()
            return
        path = head.split(" ")[1]
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(fields.get("content-length", 0)))
        case = (
            AGUI[path.rpartition("/")[2]] if path.startswith("/agui/") else OPENAI[json.loads(body)["model"]]
        )
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {case.kind}\r\nConnection: close\r\n\r\n".encode())
        for piece in case.pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()


@contextlib.asynccontextmanager
async def replaying() -> AsyncIterator[str]:
    """Its base URL."""
    replayed = Replayed()
    server = await asyncio.start_server(replayed.answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def check(who: Person, agent: str, case: Case) -> list[str]:
    """Run it; returns a sentence for each difference."""
    thread = (await who.rpc("thread.create"))["thread_id"]
    await who.follow(thread)
    run = await who.rpc("run.start", thread_id=thread, text="hello", agent=agent, client_message_id=agent)
    end = await who.finished(run["thread_id"], run["run_id"])
    found = await who.rpc("run.get", run_id=run["run_id"])
    events = who.run_events(run["thread_id"], run["run_id"])
    wrong = []
    if found["text"] != case.text:
        wrong.append(f"text {found['text']!r}, not {case.text!r}")
    if (end["type"] == "RUN_ERROR") != bool(case.error) or end.get("code", "") != case.error:
        wrong.append(f"ended {end}")
    if case.words not in end.get("message", ""):
        wrong.append(f"{case.words!r} is not in {end}")
    customs = [(event["name"], json.dumps(event["value"])) for event in events if event["type"] == "CUSTOM"]
    wrong += [
        f"{name} {word} is not in {customs}"
        for name, word in case.custom
        if not any(name == one and word in value for one, value in customs)
    ]
    names = {
        event["toolCallId"]: event["toolCallName"] for event in events if event["type"] == "TOOL_CALL_START"
    }
    arguments = dict.fromkeys(names, "")
    for event in events:
        if event["type"] == "TOOL_CALL_ARGS":
            arguments[event["toolCallId"]] += event["delta"]
    calls = tuple((name, arguments[key]) for key, name in names.items())
    if calls != case.tools:
        wrong.append(f"calls {calls}, not {case.tools}")
    return wrong


async def test_every_stream_is_shown_or_told(tmp_path: Path) -> None:
    """All cases in one program, each with its own agent."""
    async with replaying() as url:
        agents = {f"o-{name}": (f"openai+{url}/v1#{name}", case) for name, case in OPENAI.items()}
        agents |= {f"a-{name}": (f"agui+{url}/agui/{name}", case) for name, case in AGUI.items()}
        flags = tuple(word for name, (spec, _) in agents.items() for word in ("--agent", f"{name}={spec}"))
        failed: dict[str, list[str]] = {}
        async with running(tmp_path, SERVED, flags) as program:
            names = list(agents)
            for at in range(0, len(names), 20):  # within the rate of a connection's commands
                async with person(program.ws, token("ada")) as ada, asyncio.timeout(within(60)):
                    for name in names[at : at + 20]:
                        if wrong := await check(ada, name, agents[name][1]):
                            failed[name] = wrong
            assert "Traceback" not in program.log
        assert not failed, "\n".join(f"{name}: {wrong}" for name, wrong in failed.items())
