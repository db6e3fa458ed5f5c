"""The table of frameworks and servers in docs/guard.md says what the suite of the pairs knows about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from tests.docs.blocks import ROOT
from tests.guard.applications import MAKERS
from tests.guard.servers import SERVERS, Running, pairs
from tests.guard.targets import EVERY, GATEWAY
from tests.guard.test_attacks import SILENT

NAMES = {"starlette": "Starlette", "fastapi": "FastAPI", "quart": "Quart", "channels": "Django Channels"}


def cell(server: str) -> str:
    """What holds under a server, with the note of its limit."""
    running = Running(server, "", 0, cast("Any", None), Path())  # no process is asked
    if not running.carries_refusals:
        return "codes ²"
    return "all ¹" if SILENT.get(server) else "all"


def test_the_table_of_pairs() -> None:
    """Every server and every framework of the suite, and the limits that the suite allows for."""
    text = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    section = text.partition("\n## Pairs\n")[2].partition("\n## ")[0]
    rows = [
        [part.strip() for part in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"
    ]
    assert rows[0] == ["server", *(NAMES[name] for name in MAKERS)]
    assert [row[0] for row in rows[2:]] == [f"`{server}`" for server in SERVERS]
    for row, server in zip(rows[2:], SERVERS, strict=True):
        assert row[1:] == [cell(server)] * len(MAKERS), server
    assert re.search(r"^¹ .*\n² ", section, re.MULTILINE)


def test_every_pair_is_in_the_suite() -> None:
    """One pair in CI, the others in soaks, and the gateway beside them."""
    every = cast("list[Any]", EVERY)
    names = [one if isinstance(one, str) else one.values[0] for one in every]
    assert sorted(names) == sorted([GATEWAY, *("/".join(pair) for pair in pairs(SERVERS, list(MAKERS)))])
    in_soaks = [one for one in every if not isinstance(one, str)]
    assert all("soak" in {mark.name for mark in one.marks} for one in in_soaks)
