"""Turns an agent's output into legal, bounded AG-UI events for the journal.

Not here: publishing (`journal`), the rules of order (`domain/event_order`). Rules: a plain `str` becomes a delta of a
text message that is opened and closed for the agent; `*_CHUNK` events become start, content and end (AG-UI's own rule);
the gateway overwrites its own members (`seq`, `runId` …); every event is checked for shape, order and for being exact
JSON, so that no event enters the log whose digest a client could not compute. After `closed` nothing is taken.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from narthex.app.runs.endings import AgentFault
from narthex.app.runs.journal import Journal
from narthex.app.runs.run_trace import NO_RUN_TRACE, RunTrace
from narthex.app.runs.services import RunLimits
from narthex.domain import events as ev
from narthex.domain.agent_ids import in_thread
from narthex.domain.digest import canonical
from narthex.domain.event_order import EventOrder
from narthex.domain.events import DELTA_ID, Event
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds
from narthex.domain.merging import MAX_JOINED_CHARS, split_text, well_formed
from narthex.domain.steered_texts import foreign

_OURS: Final = frozenset({"seq", "seq_from", "count", "digest", "threadId", "runId", "timestamp"})
_MAY_BE_NULL: Final = frozenset({"value", "snapshot", "event"})
_IDS: Final = ("messageId", "toolCallId", "parentMessageId", "entityId")
_TURN_EVERY: Final = 64
"""Items taken without a turn of the loop: an agent that never waits must not block other work (64 at
about 10 µs stay under a millisecond)."""
_BESIDE_TEXT: Final = ("CUSTOM", "RAW", "STATE_", "STEP_", "ACTIVITY_")
"""Types that may stand within the text message that was opened for the agent's `str`s."""


class Intake:
    """The intake of one run. Its methods raise AgentFault, and the exceptions of `Journal.put`.

    Attributes:
        taken: events accepted from the agent so far.
        closed: set once the run is ending.
    """

    def __init__(
        self,
        run_id: str,
        journal: Journal,
        order: EventOrder,
        limits: RunLimits,
        trace: RunTrace = NO_RUN_TRACE,
    ) -> None:
        self._run_id = run_id
        self._journal = journal
        self._order = order
        self._limits = limits
        self._trace = trace
        self._auto = ""  # id of the message that was opened for plain text, while it is open
        self._auto_count = 0
        self._chunk: tuple[str, str] | None = None  # closing type and id of the message that a chunk opened
        self._held: dict[tuple[str, str], str] = {}  # half surrogate pairs, by type and id
        self._bytes = 0
        self._unturned = 0
        self.taken = 0
        self.closed = False

    async def take(self, item: Any) -> None:
        """Accept an item of an agent: a `str`, an event dict, or an object of the `ag_ui` package."""
        if isinstance(item, str):
            await self._text(item)
        elif isinstance(item, dict):
            await self._event(item)
        elif callable(getattr(item, "model_dump", None)):
            await self._event(item.model_dump(mode="json", by_alias=True))
        else:
            raise AgentFault(
                "agent_event_invalid",
                f"The agent yielded {type(item).__name__}; yield a str or an AG-UI event as a dict.",
            )
        self._unturned += 1
        if self._unturned >= _TURN_EVERY:
            self._unturned = 0
            await asyncio.sleep(0)

    async def own(self, event: Event) -> None:
        """Put an event of the gateway itself (checked like any other, RUN_* allowed)."""
        self._check_own(event)
        await self._journal.put(event)

    def add_own(self, event: Event) -> None:
        """As `own`, without waiting for room: nothing happens between this and the caller's next step."""
        self._check_own(event)
        self._journal.add(event)

    def _check_own(self, event: Event) -> None:
        self._exact(event)
        fault = self._order.check(event)
        if fault:
            raise AgentFault("agent_event_order", fault)

    async def close_text(self) -> None:
        """Close a message that was opened on the agent's behalf: its plain text, or a chunked one."""
        if self._auto:
            message_id, self._auto = self._auto, ""
            await self._put(ev.text_end(message_id))
        if self._chunk is not None:
            (kind, name), self._chunk = self._chunk, None
            await self._put({"type": kind, _id_member(kind): name})

    async def close_all(self) -> None:
        """Close all open messages and calls, the agent's own too, so that the terminal event is legal."""
        self._auto = ""
        self._chunk = None
        for event in self._order.closing_events():
            await self._release_halves(event)
            await self.own(event)

    async def restart(self, attempt: int) -> None:
        """Void the output of an earlier attempt: close it, publish the restart, and let its ids be used again."""
        await self.close_all()
        await self.own(ev.restarted(attempt))
        self._order.forget()

    def left_open(self) -> str:
        """Describes the messages and calls that the agent itself opened and did not close."""
        ours = {self._auto, self._chunk[1] if self._chunk is not None else ""}
        return ", ".join(
            f"{kind} {name[:80]!r}" for kind, name in self._order.open_entities() if name not in ours
        )

    # -- text ----------------------------------------------------------------------------------------------

    async def _text(self, text: str) -> None:
        if not text:
            return
        if self._chunk is not None:
            await self.close_text()
        if not self._auto:
            self._auto_count += 1
            self._auto = f"{self._run_id}:{self._auto_count}"
            await self._put(ev.text_start(self._auto))
        await self._delta(ev.text_content(self._auto, text))

    # -- events --------------------------------------------------------------------------------------------

    async def _event(self, item: dict[Any, Any]) -> None:
        event: Event = {
            name: value
            for name, value in item.items()
            if name not in _OURS and (value is not None or name in _MAY_BE_NULL)
        }
        kind = event.get("type")
        if kind not in ev.REQUIRED and kind not in _CHUNKS:  # of a later AG-UI: passed on as it is
            event = {name: value for name, value in item.items() if name not in _OURS}
        for member in _IDS if kind in ev.REQUIRED or kind in _CHUNKS else ():
            if isinstance(name := event.get(member), str):
                event[member] = in_thread(self._run_id, name)
        if kind in _CHUNKS:
            await self._chunked(event, *_CHUNKS[kind])
            return
        if kind == ev.CUSTOM:
            event = foreign(event)
        fault = None if kind in ev.GATEWAY_ONLY else ev.shape_fault(event)
        if fault:
            raise AgentFault("agent_event_invalid", fault)
        assert isinstance(kind, str)
        if not kind.startswith(_BESIDE_TEXT):
            await self.close_text()
        await (self._delta(event) if kind in DELTA_ID else self._put(event))

    async def _delta(self, event: Event) -> None:
        kind: str = event["type"]
        fault = self._order.check(event, from_agent=True)
        if fault:
            raise AgentFault("agent_event_order", fault)
        place = (kind, event[DELTA_ID[kind]])
        held = self._held.pop(place, "") if self._held else ""
        text, rest = well_formed(event["delta"], held)
        if rest:
            self._held[place] = rest
        if text is not event["delta"]:
            event = {**event, "delta": text}
        if len(event) > 3:  # more members than type, id and delta: they must be exact JSON too
            self._exact({**event, "delta": ""})
        self._count(len(text))
        if len(text) > MAX_JOINED_CHARS:
            for piece in split_text(text):
                await self._journal.put({**event, "delta": piece})
        elif text:  # an empty delta is dropped: AG-UI's content events are never empty
            await self._journal.put(event)
        self.taken += 1

    async def _put(self, event: Event) -> None:
        """Put a lifecycle event."""
        size = self._exact(event)
        fault = self._order.check(event, from_agent=True)
        if fault:
            raise AgentFault("agent_event_order", fault)
        if size > self._limits.max_event_bytes:
            raise AgentFault(
                "agent_flood",
                f"The agent yielded one {event['type']} of {size} bytes; at most {self._limits.max_event_bytes}.",
            )
        self._count(size)
        if self._held:
            await self._release_halves(event)
        if self._trace.recording:
            self._trace.took(event)
        await self._journal.put(event)
        self.taken += 1

    async def _release_halves(self, event: Event) -> None:
        """A message ends while half a surrogate pair is held back: its other half will not come."""
        for kind, name in list(self._held):
            member = DELTA_ID[kind]
            if event.get(member) == name:
                del self._held[kind, name]
                await self._journal.put({"type": kind, member: name, "delta": "\ufffd"})

    def _exact(self, event: Event) -> int:
        """The event's size in canonical JSON."""
        try:
            exact = canonical(event)
        except ValueError as fault:
            raise AgentFault("agent_event_invalid", f"{event['type']} is not exact JSON: {fault}.") from fault
        if json_depth_exceeds(exact, MAX_EVENT_DEPTH):
            raise AgentFault(
                "agent_event_invalid", f"{event['type']} nests deeper than {MAX_EVENT_DEPTH} levels."
            )
        return len(exact)

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.max_run_bytes:
            raise AgentFault(
                "agent_flood", f"The agent produced more than {self._limits.max_run_bytes} bytes in one run."
            )
        if self._journal.log.seq > self._limits.max_run_events:
            raise AgentFault(
                "agent_flood",
                f"The agent produced more than {self._limits.max_run_events} events in one run.",
            )

    # -- chunks --------------------------------------------------------------------------------------------

    async def _chunked(self, chunk: Event, member: str, start: str, content: str, end: str) -> None:
        name = chunk.get(member) or (
            self._chunk[1] if self._chunk is not None and self._chunk[0] == end else None
        )
        if not isinstance(name, str) or not name:
            raise AgentFault(
                "agent_event_invalid", f"The first {chunk['type']} of a message needs `{member}`."
            )
        if self._chunk != (end, name):
            await self.close_text()
            opening = {key: value for key, value in chunk.items() if key != "delta"}
            opening.update({"type": start, member: name})
            fault = ev.shape_fault(opening)
            if fault:
                raise AgentFault("agent_event_invalid", fault)
            await self._put(opening)
            self._chunk = (end, name)
        delta = chunk.get("delta")
        if isinstance(delta, str) and delta:
            await self._delta({"type": content, member: name, "delta": delta})


_CHUNKS: Final[dict[Any, tuple[str, str, str, str]]] = {
    "TEXT_MESSAGE_CHUNK": ("messageId", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
    "REASONING_MESSAGE_CHUNK": (
        "messageId",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
    ),
    "TOOL_CALL_CHUNK": ("toolCallId", "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"),
}


def _id_member(kind: str) -> str:
    return "toolCallId" if kind.startswith("TOOL_CALL") else "messageId"
