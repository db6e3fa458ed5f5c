"""Folds a run's events into the answer text and the messages that the run is compacted to.

Not here: the store's rows (app/runs/compaction). Rules: folding a merged delta gives the same as folding its
parts; `CUSTOM narthex.restarted` voids everything before it; the answer text is every TEXT_MESSAGE_CONTENT
delta of assistant messages, one after the other, with nothing put between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from narthex.domain.agent_ids import in_thread
from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.events import Event
from narthex.domain.json_patch import PatchedDocument, PatchFault

_TEXT_ROLES: Final = frozenset({"assistant", ""})


_ENDS: Final = {
    "TEXT_MESSAGE_END": ("text", "messageId"),
    "REASONING_MESSAGE_END": ("reasoning", "messageId"),
    "TOOL_CALL_END": ("tool", "toolCallId"),
}


class TranscriptEntry(msgspec.Struct, kw_only=True):
    """One message of a run as it grows.

    Attributes:
        message_id: the messageId, or a tool call's toolCallId.
        role: `assistant`, `reasoning`, `tool`, `activity`, or the role that the agent gave a text message.
        began_at: seconds since the epoch.
        offset: channel offset of its newest event.
        began_offset: channel offset of its first event, which is its place in the log.
        epoch: the epoch of `began_offset`.
        parts: its text (a tool call: its arguments' JSON text) in pieces.
        result: the tool's return value; None until it returns.
        result_id: the messageId of that value.
        activity_type: AG-UI's, of an activity.
        activity: the content of an activity; it is not kept once it was too large for an event.
    """

    message_id: str
    role: str
    began_at: float
    offset: int
    began_offset: int = 0
    epoch: str = ""
    parts: list[str] = []
    name: str = ""
    parent_message_id: str = ""
    result: str | None = None
    result_id: str = ""
    activity_type: str = ""
    activity: PatchedDocument | None = None

    @property
    def text(self) -> str:
        """The pieces as one."""
        return "".join(self.parts)


Fold = Callable[["Transcript", Event, int, float], None]


class Transcript:
    """Folds a run's published events."""

    __slots__ = ("_by_key", "_epoch", "_parts", "entries")

    def __init__(self) -> None:
        self.entries: list[TranscriptEntry] = []
        self._by_key: dict[tuple[str, str], TranscriptEntry] = {}
        self._parts: list[str] = []
        self._epoch = ""

    @property
    def text(self) -> str:
        """The answer so far."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def feed(self, event: Event, *, offset: int, at: float, epoch: str = "") -> None:
        """Take the next published event; `offset` (in `epoch`) is its place in the channel, `at` its time."""
        self._epoch = epoch
        fold = self._folds.get(event["type"])
        if fold is not None:
            fold(self, event, offset, at)

    def _open(self, kind: str, entry: TranscriptEntry) -> None:
        known = self._by_key.get((kind, entry.message_id))
        if known is None:
            entry.began_offset, entry.epoch = entry.offset, self._epoch
            self._by_key[(kind, entry.message_id)] = entry
            self.entries.append(entry)
        else:
            known.offset = entry.offset

    def _text_start(self, event: Event, offset: int, at: float) -> None:
        role = event.get("role") or "assistant"
        self._open(
            "text", TranscriptEntry(message_id=event["messageId"], role=role, began_at=at, offset=offset)
        )

    def _text_content(self, event: Event, offset: int, _at: float) -> None:
        entry = self._by_key.get(("text", event["messageId"]))
        if entry is None:
            return
        entry.parts.append(event["delta"])
        entry.offset = offset
        if entry.role in _TEXT_ROLES:
            self._parts.append(event["delta"])

    def _reasoning_start(self, event: Event, offset: int, at: float) -> None:
        self._open(
            "reasoning",
            TranscriptEntry(message_id=event["messageId"], role="reasoning", began_at=at, offset=offset),
        )

    def _reasoning_content(self, event: Event, offset: int, _at: float) -> None:
        entry = self._by_key.get(("reasoning", event["messageId"]))
        if entry is not None:
            entry.parts.append(event["delta"])
            entry.offset = offset

    def _tool_start(self, event: Event, offset: int, at: float) -> None:
        entry = TranscriptEntry(
            message_id=event["toolCallId"],
            role="tool",
            began_at=at,
            offset=offset,
            name=event["toolCallName"],
            parent_message_id=event.get("parentMessageId") or "",
        )
        self._open("tool", entry)

    def _tool_args(self, event: Event, offset: int, _at: float) -> None:
        entry = self._by_key.get(("tool", event["toolCallId"]))
        if entry is not None:
            entry.parts.append(event["delta"])
            entry.offset = offset

    def _tool_result(self, event: Event, offset: int, at: float) -> None:
        entry = TranscriptEntry(message_id=event["toolCallId"], role="tool", began_at=at, offset=offset)
        self._open("tool", entry)  # a result of a call that an earlier run made
        known = self._by_key[("tool", event["toolCallId"])]
        known.result = _plain(event["content"])
        known.result_id = event["messageId"]
        known.offset = offset

    def _messages(self, event: Event, offset: int, _at: float) -> None:
        """Of the agent's own view of the conversation, the results of this run's calls: some agents say a result
        nowhere else, and some remember it by another id than TOOL_CALL_RESULT had, and would take that one for a second
        result.
        """
        for message in event["messages"]:
            if not isinstance(message, dict) or message.get("role") != "tool":
                continue
            name = str(message.get("toolCallId"))  # what is within a snapshot is as the agent made it
            known = self._by_key.get(("tool", name)) or self._by_key.get(
                ("tool", in_thread(str(event.get("runId")), name))
            )
            if known is None:
                continue
            if known.result is None:
                known.result = _plain(message.get("content") or "")
            known.result_id = str(message.get("id") or known.result_id)
            known.offset = offset

    def _activity(self, event: Event, offset: int, at: float) -> None:
        """A snapshot that does not `replace` leaves the message that is there, as in AG-UI's client."""
        known = self._by_key.get(("activity", event["messageId"]))
        if known is None:
            known = TranscriptEntry(
                message_id=event["messageId"], role="activity", began_at=at, offset=offset
            )
            self._open("activity", known)
        elif event.get("replace") is False:
            return
        known.activity_type, known.offset = event["activityType"], offset
        known.activity = PatchedDocument(event["content"], MAX_BYTES)

    def _activity_delta(self, event: Event, offset: int, _at: float) -> None:
        known = self._by_key.get(("activity", event["messageId"]))
        if known is None or known.activity is None:
            return
        with contextlib.suppress(PatchFault):  # as AG-UI's client: a patch that does not fit is left out
            known.activity.apply(event["patch"])
            known.offset = offset

    def _end(self, event: Event, offset: int, _at: float) -> None:
        kind, member = _ENDS[event["type"]]
        entry = self._by_key.get((kind, event[member]))
        if entry is not None:
            entry.offset = offset

    def _custom(self, event: Event, _offset: int, _at: float) -> None:
        if event.get("name") == "narthex.restarted":
            self.entries.clear()
            self._by_key.clear()
            self._parts.clear()

    _folds: ClassVar[dict[str, Fold]] = {
        "TEXT_MESSAGE_START": _text_start,
        "TEXT_MESSAGE_CONTENT": _text_content,
        "TEXT_MESSAGE_END": _end,
        "REASONING_MESSAGE_START": _reasoning_start,
        "REASONING_MESSAGE_CONTENT": _reasoning_content,
        "REASONING_MESSAGE_END": _end,
        "TOOL_CALL_START": _tool_start,
        "TOOL_CALL_ARGS": _tool_args,
        "TOOL_CALL_END": _end,
        "TOOL_CALL_RESULT": _tool_result,
        "MESSAGES_SNAPSHOT": _messages,
        "ACTIVITY_SNAPSHOT": _activity,
        "ACTIVITY_DELTA": _activity_delta,
        "CUSTOM": _custom,
    }


def _plain(content: Any) -> str:
    """A tool result's text: itself, or the text parts of AG-UI's multimodal form."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return str(content)
    return "\n".join(
        str(part.get("text", "")) for part in content if isinstance(part, dict) and part.get("type") == "text"
    )
