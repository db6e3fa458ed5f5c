"""A client's own names in the events of a run. Not here: finding the names (`requests`)."""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.domain.events import RUN_FINISHED, RUN_STARTED, TERMINAL, Event

_OURS: Final = frozenset({"threadId", "runId", "seq", "seq_from", "count", "digest"})
_NAMES_RUN: Final = frozenset({RUN_STARTED, RUN_FINISHED})


class ClientNames(msgspec.Struct, frozen=True, rename="camel"):
    """A client's names of a thread, a run and its parent; the gateway's own ids where it has none."""

    thread_id: str
    run_id: str
    parent_run_id: str = ""


def pure(event: Event, names: ClientNames) -> Event:
    """A published event of a run in AG-UI 1.0's form, for clients that know no other members, with their own names.

    To verify the run's digest, a client takes the gateway's ids from `metadata.narthex` of RUN_STARTED: it puts
    `threadId` and `runId` into every event, `parentRunId` into RUN_STARTED, and removes the `metadata` of RUN_STARTED
    and of the terminal event (docs/ag-ui.md).
    """
    kept = {name: value for name, value in event.items() if name not in _OURS}
    kind = event["type"]
    if kind in _NAMES_RUN:
        kept |= {"threadId": names.thread_id, "runId": names.run_id}
        if parent := kept.get("parentRunId"):
            kept["parentRunId"] = names.parent_run_id or parent
    ids: tuple[str, ...]
    if kind == RUN_STARTED:
        ids = ("threadId", "runId", "parentRunId")
    elif kind in TERMINAL:
        ids = ("threadId", "runId", "count", "digest")
    else:
        return kept
    kept["metadata"] = {"narthex": {name: event[name] for name in ids if name in event}}
    return kept
