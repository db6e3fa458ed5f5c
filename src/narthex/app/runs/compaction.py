"""A finished run → message rows, so that reopening a thread costs one read; and trimming the thread's log.

Not here: the order of a run's end (`execution`). Rules: rows are written before the store marks the run as over, and
are idempotent by message id, so a crash between the two repeats and never loses. Only then may old publications go, and
never the newest `keep_events`: clients that were away recover from those.
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.app.runs.run_log_state import RunLogState
from narthex.app.runs.services import RunServices
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.transcript import TranscriptEntry
from narthex.ports.broker import Position
from narthex.ports.runs import Run
from narthex.ports.threads import Message

_STEP_S: Final = 1e-6  # rows of one run keep their order where two began in the same microsecond
MESSAGES: Final = 200  # the newest ones: a call waits for its answer for a day at most
_TRIM_STEP: Final = 1_000  # trimming fewer publications is not worth a call


def rows(run: Run, log_state: RunLogState) -> tuple[list[Message], list[Position]]:
    """The messages of a run's transcript, in the order they began, and their positions in the log."""
    kept: list[Message] = []
    places: list[Position] = []
    last = 0.0
    for entry in log_state.transcript.entries:
        detail = _detail(entry)
        if not entry.text and entry.role not in _WITHOUT_TEXT:
            continue
        if entry.activity is not None and entry.activity.too_large:
            continue
        places.append(Position(entry.began_offset, entry.epoch))
        last = max(entry.began_at, last + _STEP_S)
        kept.append(
            Message(
                message_id=entry.message_id,
                thread_id=run.thread_id,
                role=entry.role,
                author=run.agent,
                content=(entry.result or "") if entry.role == "tool" else entry.text,
                created_at=last,
                run_id=run.run_id,
                detail=detail,
                offset=entry.offset,
            )
        )
    return kept, places


_WITHOUT_TEXT: Final = frozenset({"tool", "activity"})


def _detail(entry: TranscriptEntry) -> str:
    if entry.activity is not None:
        activity = {"activityType": entry.activity_type, "content": entry.activity.value}
        return msgspec.json.encode(activity).decode()
    if entry.role != "tool":
        return "{}"
    detail = {
        "toolCallName": entry.name,
        "args": entry.text,
        "parentMessageId": entry.parent_message_id,
        "answered": entry.result is not None,
        "resultId": entry.result_id,
    }
    return msgspec.json.encode(detail).decode()


async def compact(services: RunServices, run: Run, log_state: RunLogState) -> None:
    """Store the run's messages and trim the log's part that is not needed any more. Raises DependencyError."""
    messages, places = rows(run, log_state)
    if messages:
        await services.threads.add_messages(run.tenant, messages, places)
    if results := [
        entry for entry in log_state.transcript.entries if entry.role == "tool" and not entry.name
    ]:
        await _answer_earlier_calls(services, run, results)
    surplus = log_state.offset - services.limits.keep_events
    if surplus > 0 and surplus // _TRIM_STEP > (surplus - log_state.seq) // _TRIM_STEP:
        channel = channel_key(run.tenant, thread_channel(run.thread_id))
        await services.broker.trim(channel, Position(surplus, log_state.epoch))


async def _answer_earlier_calls(services: RunServices, run: Run, results: list[TranscriptEntry]) -> None:
    """Put results into the rows of the calls that an earlier run made, before it asked whether it may."""
    by_call = {entry.message_id: entry for entry in results}
    stored = await services.threads.messages(run.tenant, run.thread_id, before=None, limit=MESSAGES)
    for row in stored:
        entry = by_call.get(row.message_id) if row.role == "tool" and row.run_id != run.run_id else None
        detail: dict[str, object] = msgspec.json.decode(row.detail) if entry is not None else {}
        if entry is None or detail.get("answered", True):
            continue
        detail |= {"answered": True, "resultId": entry.result_id}
        answered = msgspec.structs.replace(
            row, content=entry.result or "", detail=msgspec.json.encode(detail).decode()
        )
        # Alone: one that a member answered meanwhile keeps that result, and the others get theirs.
        await services.threads.answer_calls(run.tenant, run.thread_id, [answered])
