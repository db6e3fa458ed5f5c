"""A real narthex behind a proxy with one fault: the first line names it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.program import Program, running
from tests.doctor.clinic import TIMEOUT_S, examined
from tests.doctor.meddler import meddling, replaced, without
from tests.fault_proxy import FaultProxy
from tests.timing import within

pytestmark = pytest.mark.acceptance

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("ok", {}),
    ("upgrade_stripped", {"request": without("Upgrade", "Connection")}),
    ("upgrade_stripped", {"request": without("Upgrade")}),
    ("authorization_stripped", {"request": without("Authorization")}),
    ("subprotocol_stripped", {"request": without("Sec-WebSocket-Protocol")}),
    ("handshake_headers_lost", {"request": without("Sec-WebSocket-Key")}),
    ("handshake_headers_lost", {"request": without("Sec-WebSocket-Version")}),
    ("bad_accept", {"response": replaced(b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Accept: A")}),
    ("bad_accept", {"response": without("Sec-WebSocket-Accept")}),
    ("upgrade_header_missing", {"response": without("Upgrade")}),
    ("cut_mid_answer", {"keep": 20}),
    ("not_http", {"response": lambda _: bytes(range(128, 200))}),
    ("slow_answer", {"one_at_a_time_s": TIMEOUT_S / 10}),
    ("bad_frames", {"after": b"\xf7\x13\x37garbage"}),
    ("cut_after_accept", {"cut_after_head": True}),
]


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """A narthex."""
    async with running(tmp_path) as started:
        yield started


async def test_each_fault_on_the_way_is_named(program: Program) -> None:
    """With and without a token."""
    token = program.token("ada")
    wrong: list[tuple[str, str]] = []
    for code, fault in FAULTS:
        async with meddling(program.port, **fault) as port:
            for given in ("", token):
                diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", token=given)
                if not diagnosis.first_line.startswith(f"{code}: "):
                    wrong.append((code, diagnosis.first_line))
    assert not wrong


async def test_faults_of_plain_tcp(program: Program) -> None:
    """Hung, cut and dead; and recovered."""
    async with FaultProxy(program.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        for mode, code in (
            ("hung", "black_hole"),
            ("reset", "eof_before_answer"),
            ("dead", "nothing_listens"),
            ("pass", "ok"),
        ):
            await proxy.set(mode)  # type: ignore[arg-type]  # the literals above
            diagnosis, _ = await examined(url)
            assert diagnosis.first_line.split(":")[0] in (code, "reset_before_answer"), diagnosis.first_line


async def test_no_secret_comes_out(program: Program) -> None:
    """Whatever a server repeats, a report contains neither the token nor a header's value."""
    import msgspec

    from narthex.doctor.reports import as_json, as_junit, as_text

    token = program.token("ada")
    echo = replaced(b"\r\n\r\n", f"\r\nServer: {token} sesame-open\r\n\r\n".encode())
    async with meddling(program.port, response=echo) as port:
        diagnosis, seen = await examined(
            f"ws://127.0.0.1:{port}/ws?room=7",
            token=token,
            headers=(("X-Key", "sesame-open"),),
            timeout_s=within(3),
        )
    everything = "\n".join(
        [
            as_text(diagnosis, seen, details=True),
            as_json(diagnosis, seen),
            as_junit(diagnosis, seen),
            msgspec.json.encode(seen).decode(),
        ]
    )
    assert token not in everything
    assert "sesame-open" not in everything
    assert "room=7" not in everything
