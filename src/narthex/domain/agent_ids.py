"""The ids that agents give messages and tool calls, and their form in a thread.

Ids are unique in a thread: rows are stored under them, and devices collect events by them. An agent uses a short one
(`m1`, `call_0`) in every run, so in the thread the run's id stands before it. A longer one is taken for a random one,
and kept. An agent gets its own ids back in the messages of its next runs, as far as they name one thing there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

SHORT_ID: Final = 16
LONG_ID: Final = 200
"""Longer ones (some proxies put kilobytes of a model's state into a tool call's id) are replaced by their hash: stores
index ids, and PostgreSQL refuses more than 2.6 KB there, at the end of the run, every time that it is tried again."""


def in_thread(run_id: str, name: str) -> str:
    """The form in the thread of an id that the agent of a run gave."""
    if 0 < len(name) < SHORT_ID:
        return f"{run_id}.{name}"
    if len(name) > LONG_ID:
        return f"{run_id}.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
    return name


def as_made(ids: Iterable[str], run_ids: Collection[str]) -> dict[str, str]:
    """Of different ids in a thread with these runs: those that agents gave in a short form, with that form, where no
    other id has it too.
    """
    made = {name: _without_run(name, run_ids) for name in ids}
    count = Counter(made.values())
    return {name: short for name, short in made.items() if short != name and count[short] == 1}


def _without_run(name: str, run_ids: Collection[str]) -> str:
    run_id, _, short = name.partition(".")
    return short if run_id in run_ids and 0 < len(short) < SHORT_ID else name
