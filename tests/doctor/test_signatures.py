"""Each signature that can be reproduced on one machine is reproduced, and the doctor's first line names it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.doctor.knowledge import signatures
from tests.doctor.clinic import examined
from tests.doctor.failing_answers import CASES, TOKEN
from tests.doctor.failing_servers import healthy, speaks_http2
from tests.doctor.scripted import Answer, Asked, Authority, Wire, serving
from tests.timing import within


@pytest.mark.parametrize(("code", "name", "answer", "options"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
async def test_first_line_names_the_cause(
    code: str, name: str, answer: Answer, options: dict[str, Any]
) -> None:
    """A scripted server that fails in this way is named in the first line."""
    async with serving(answer) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", **options)
    assert diagnosis.first_line.split(" ")[0].rstrip(":") == code, diagnosis.first_line


async def test_a_name_that_does_not_resolve() -> None:
    """Signature 1."""
    diagnosis, _ = await examined("ws://no-such-host.invalid/ws", timeout_s=within(5))
    assert diagnosis.first_line.startswith("dns_no_name: ")
    assert not diagnosis.reachable


async def test_nothing_listens() -> None:
    """Signature 2."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        diagnosis, _ = await examined(f"ws://127.0.0.1:{held.getsockname()[1]}/ws")
    assert diagnosis.first_line.startswith("nothing_listens: ")


@contextlib.asynccontextmanager
async def deaf() -> AsyncIterator[int]:
    """A port whose SYNs are dropped: the backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_connect_times_out() -> None:
    """Signature 3."""
    async with deaf() as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("connect_timeout: ")


async def test_wss_to_a_plain_port() -> None:
    """Signature 4."""
    async with serving(healthy) as port:
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("wss_to_plain_port: ")


async def test_ws_to_a_tls_port(tmp_path: Path) -> None:
    """Signature 5: a server that only cuts is identified by a TLS ClientHello."""
    async with serving(healthy, Authority(tmp_path).context("127.0.0.1")) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert diagnosis.first_line.startswith("ws_to_tls_port: ")


@pytest.mark.parametrize(
    ("code", "name", "begin_days", "end_days", "trusted"),
    [
        ("certificate_expired", "127.0.0.1", -10, -2, True),
        ("certificate_not_yet_valid", "127.0.0.1", 2, 9, True),
        ("certificate_name", "chat.example", -1, 30, True),
        ("certificate_untrusted", "127.0.0.1", -1, 30, False),
    ],
)
async def test_certificates(
    tmp_path: Path, code: str, name: str, begin_days: int, end_days: int, trusted: bool
) -> None:
    """Signature 6; no byte of HTTP is sent over an unverified certificate."""
    asked: list[Asked] = []

    async def answer(request: Asked, wire: Wire) -> None:
        asked.append(request)

    authority = Authority(tmp_path)
    context = authority.context(name, begin_days=begin_days, end_days=end_days)
    async with serving(answer, context) as port:
        ca_file = str(authority.root) if trusted else ""
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws", ca_file=ca_file, **TOKEN)
    assert diagnosis.first_line.startswith(f"{code}: ")
    assert not asked


async def test_http2_behind_tls(tmp_path: Path) -> None:
    """Signature 7."""
    authority = Authority(tmp_path)
    async with serving(speaks_http2, authority.context("127.0.0.1")) as port:
        diagnosis, _ = await examined(f"wss://127.0.0.1:{port}/ws", ca_file=str(authority.root))
    assert diagnosis.first_line.startswith("speaks_h2: ")


async def test_an_expired_token_is_read() -> None:
    """Signature 16, with the token's own claims."""
    import base64

    part = base64.urlsafe_b64encode(json.dumps({"exp": time.time() - 7200}).encode()).decode().rstrip("=")

    async def answer(asked: Asked, wire: Wire) -> None:
        await wire.say(401, "Unauthorized", WWW_Authenticate='Bearer error="invalid_token"')

    async with serving(answer) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws", token=f"e30.{part}.c2ln")
    assert diagnosis.first_line.startswith("token_expired_here: 401: the token expired 2 h ago")


def test_at_least_thirty_of_the_thirty_six_are_reproduced() -> None:
    """Counts distinct signature numbers over everything above (proxies and servers reproduce more)."""
    alone = {"dns_no_name", "nothing_listens", "connect_timeout", "wss_to_plain_port", "certificate_expired"}
    codes = {entry[0] for entry in CASES} | alone
    numbers = {signatures()[code].number for code in codes} - {0}
    assert len(numbers) >= 30, sorted(set(range(1, 37)) - numbers)


async def test_a_431_for_nine_kilobytes_is_a_note() -> None:
    """Most servers stop at 8 KB with an error: worth a note, and not a finding."""

    async def eight_kilobytes(asked: Asked, wire: Wire) -> None:
        await (wire.say(431, "Too Large") if asked.size > 8192 else healthy(asked, wire))

    async with serving(eight_kilobytes) as port:
        diagnosis, _ = await examined(f"ws://127.0.0.1:{port}/ws")
    assert not diagnosis.findings
    assert any(note.startswith("large_head_refused: 431") for note in diagnosis.notes)
