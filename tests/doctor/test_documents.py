"""An endpoint with odd answers is examined to the end: doctor, gate and canary name the fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from narthex.doctor.canary import one_round
from narthex.doctor.conversation import NarthexSockets
from narthex.doctor.documents import json_object, member, objects, url_parts
from narthex.doctor.exchanging import Line, Secrets, exchange
from narthex.doctor.gate import GateOptions, examine_gate
from narthex.doctor.observations import Attempt
from narthex.doctor.target import parse_target
from narthex.protocol.framing import PING, PONG, TEXT
from tests.doctor.clinic import examined
from tests.doctor.scripted import Asked, Wire, serving
from tests.timing import within

TOKEN = "abc.def.ghi"
BOMB = "[" * 3999
ROUTES: dict[str, Any] = {
    "/ws/beacon": {"beacon": "narthex"},
    "/ws/health": {
        "status": ["x"],
        "checks": [1],
        "e2e_testing": {"auth_bypass_active": False, "reason": {}},
    },
    "/ws/config": {"url": "ws://[::1", "version": {}, "paths": 3},
    "/ws/preflight": {"verdict": [], "code": 7},
}


def test_what_is_no_object_is_none() -> None:
    """An array, a number, half a document, a bomb."""
    assert [json_object(text) for text in ("[]", "5", '{"a":', BOMB, "")] == [None] * 5
    assert json_object('{"a":1}') == {"a": 1}


def test_a_path_that_leads_nowhere_is_empty() -> None:
    """Whatever the value in between is."""
    document: dict[str, Any] = {"push": 5, "pub": {"data": [1]}, "rpc": {"data": {"n": 1}}}
    assert member(document, "push", "pub") == member(document, "pub", "data") == member(document, "x") == {}
    assert member(document, "rpc", "data") == {"n": 1}
    assert objects([{"a": 1}, 5, None]) == [{"a": 1}]
    assert objects({"a": 1}) == []


def test_what_is_no_url_has_no_parts() -> None:
    """Brackets without an IPv6 address make Python's own parser raise."""
    assert url_parts("http://[::1").netloc == ""
    assert url_parts("http://h/p").netloc == "h"


async def odd(wire: Wire, asked: Asked, *says: str) -> None:
    """A narthex by its beacon, whose every answer has another shape."""
    if not asked.upgrade:
        body = json.dumps(ROUTES.get(asked.path, []))
        await wire.say(200, body=body, content_type="application/json")
        return
    await wire.accept(asked)
    while data := await wire.reader.read(4096):
        if data[0] & 0x0F == PING:
            await wire.frame(PONG, b"narthex")
            continue
        for text in says:
            await wire.frame(TEXT, text.encode())


@pytest.mark.parametrize(
    "says",
    [
        ['{"push":5}', '{"id":1,"connect":{"subs":[1]}}', '{"id":2,"rpc":{"data":{"marker":1}}}'],
        ['{"id":1,"error":"x"}'],
        [
            '{"id":1,"connect":{"subs":{"user:x":3}}}',
            '{"push":{"pub":"x","channel":[]}}',
            '{"id":2,"rpc":[]}',
        ],
        ["[" * 100],
        ["5"],
    ],
)
async def test_answers_of_another_shape_end_no_examination(says: list[str]) -> None:
    """Doctor, gate and canary name the failure; none ends with an exception."""

    async def answer(asked: Asked, wire: Wire) -> None:
        await odd(wire, asked, *says)

    async with serving(answer) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        diagnosis, _ = await examined(url, token=TOKEN)
        assert diagnosis.failed
        report = await examine_gate(parse_target(url), GateOptions(token=TOKEN, timeout_s=within(0.5)))
        failed = {check.name for check in report.checks if not check.ok}
        assert {"health", "admitted with the token", "run", "drop and resume"} <= failed
        seen = await one_round(parse_target(url), token=TOKEN, timeout_s=within(0.5))
        assert not seen.ok


async def test_a_line_separator_in_a_text_splits_no_message() -> None:
    """U+2028 and U+0085 are ordinary characters in JSON; an agent's answer may contain them."""

    async def answer(asked: Asked, wire: Wire) -> None:
        await odd(wire, asked, '{"id":1,"connect":{"client":"a\u2028b\u0085c"}}')

    async with serving(answer) as port:
        line = Line(parse_target(f"ws://127.0.0.1:{port}/ws"), Secrets(), timeout_s=within(2))
        connections = NarthexSockets(line, "127.0.0.1")
        try:
            _, connected = await connections.connect()
        finally:
            await connections.end()
        assert connected == {"client": "a\u2028b\u0085c"}


@pytest.mark.parametrize(("status", "location"), [(403, "/"), (302, "http://[::1")])
async def test_a_refusal_that_is_a_trap_is_a_finding(status: int, location: str) -> None:
    """A body of four thousand brackets; an invalid Location."""

    async def answer(asked: Asked, wire: Wire) -> None:
        await wire.say(status, body=BOMB, content_type="application/json", location=location)

    async with serving(answer) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", token=TOKEN)
        assert diagnosis.failed


async def test_a_long_health_is_read_whole() -> None:
    """A gateway with many agents has a longer answer than the doctor shows; half a document would be invalid."""
    health = {"status": "healthy", "padding": "p" * 20_000}

    async def answer(asked: Asked, wire: Wire) -> None:
        await wire.say(200, body=json.dumps(health), content_type="application/json")

    async with serving(answer) as port:
        line = Line(parse_target(f"ws://127.0.0.1:{port}/ws"), Secrets(), timeout_s=within(2))
        made = await exchange(line, "127.0.0.1", Attempt(name="health", upgrade=False, path="/ws/health"))
        assert json_object(made.body) == health
        made = await exchange(line, "127.0.0.1", Attempt(name="plain GET", upgrade=False))
        assert len(made.body) == 4_000
