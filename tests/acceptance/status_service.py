"""`narthex status serve` with 90 days of data, an open incident and maintenance to come.

Not here: the page (`chat_page`), the data (`tests.status.filled`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx2

from tests.acceptance.program import Program
from tests.status.filled import fill

TOKEN: Final = "status-token-of-the-tests-01"
LOGO: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">'
    '<circle cx="4" cy="4" r="4" fill="#2c4a52"/></svg>'
)
LATENCY: Final = {"connect": 6.1, "send": 3.4, "stream": 12.0, "sign_in": 1.2}


@contextlib.contextmanager
def filled_service(directory: Path) -> Iterator[Program]:
    """The service, ended afterwards. It needs no running event loop."""
    (directory / "logo.svg").write_text(LOGO)
    environment = {
        "NARTHEX_STATUS_TOKEN": TOKEN,
        "NARTHEX_STATUS_NAME": "Acme Chat",
        "NARTHEX_STATUS_LOGO": str(directory / "logo.svg"),
        "NARTHEX_STATUS_LINKS": "Acme=https://acme.example,Support=mailto:help@acme.example",
    }
    program = Program(directory, environment, serving="status serve")
    asyncio.run(fill(directory / "data" / "status.db", time.time()))
    try:
        asyncio.run(program.start())
        _sample(program)
        yield program
    finally:
        program.end()


def _sample(program: Program) -> None:
    samples = [
        {"component": name, "kind": "probe", "source": "eu", "good": 1, "latency_ms": ms, "every_s": 86_400}
        for name, ms in LATENCY.items()
    ]
    answer = httpx2.post(
        f"{program.http}/api/v1/status/samples",
        json={"samples": samples},
        headers={"Authorization": f"Bearer {TOKEN}"},
        trust_env=False,
    )
    assert answer.json() == {"kept": 4}
    time.sleep(1.1)  # the service keeps a document for a second
