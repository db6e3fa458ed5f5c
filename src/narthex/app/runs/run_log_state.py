"""A run's state from its log: seq, digest, transcript, open messages; fed live, or read back from the channel.

Not here: writing the log (`journal`), caching (`run_log_cache`). Rule: folded events are durable. A gap in `seq`, a
position that does not come after the last one, or another epoch (the log itself lost events) marks it `broken`: such a
run ends without a digest, because no digest would be true.
"""

from __future__ import annotations

from array import array

import msgspec

from narthex.app.runs.services import RunServices
from narthex.domain.agent_state import AgentState
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.digest import Digest
from narthex.domain.event_order import EventOrder
from narthex.domain.events import Event, is_terminal
from narthex.domain.runs import state_after
from narthex.domain.steered_texts import SteeredTexts
from narthex.domain.transcript import Transcript
from narthex.ports.broker import MAX_HISTORY_PAGE, Page, Position, Publication
from narthex.ports.runs import Run


class RunLogState:
    """The fold.

    Attributes:
        seq: the last event's; 0 when there is none.
        terminal: the terminal event, once it is there.
        broken: events are missing, or may be, or one has no normal form.
        offset: channel offset of the last event.
        epoch: of that offset.
        top: the log's end as far as it is known: as it was last read, or the last event's position; None: unknown.
        agent_state: what the run's events did to the agent's state.
        steered: the texts that users sent to the agent.
        prints: a hash of each event's entry, by `seq`; 0 where it is missing.
        reach: whether the log was there from the run's beginning on when it was read back: `whole`; `cut` (its
            beginning was trimmed) or `gone` (it is another log than the one that the run was started in).
    """

    __slots__ = (
        *(
            "agent_state",
            "broken",
            "digest",
            "epoch",
            "offset",
            "prints",
            "reach",
            "seq",
            "steered",
            "terminal",
            "top",
            "transcript",
        ),
    )

    def __init__(self) -> None:
        self.seq = 0
        self.digest = Digest()
        self.transcript = Transcript()
        self.terminal: Event | None = None
        self.broken = False
        self.offset = 0
        self.epoch = ""
        self.top: Position | None = None
        self.agent_state = AgentState()
        self.steered = SteeredTexts()
        self.reach = "whole"
        self.prints = array("q")  # eight bytes for each event of a running run

    def feed(self, event: Event, data: bytes, at: Position, moment: float) -> None:
        """Take the next durable event, the entry that holds it, its position, and when it was appended."""
        if event["seq"] != self.seq + 1 or (self.epoch and not self._follows(at)):
            self.broken = True
        self.seq = event["seq"]
        if (missing := self.seq - len(self.prints)) != 1:
            self.prints = self.prints[: self.seq - 1] + array("q", [0] * (missing - 1))
        self.prints.append(hash(data))
        self.offset, self.epoch, self.top = at.offset, at.epoch, at
        try:
            self.digest.feed(event)
        except (
            ValueError
        ):  # intake refuses such an event; one that is in the log anyway must not keep the run from ending
            self.broken = True
        self.transcript.feed(event, offset=at.offset, at=moment, epoch=at.epoch)
        self.agent_state.feed(event)
        self.steered.feed(event)
        if is_terminal(event):
            self.terminal = event

    def applied_to(self, run: Run) -> Run:
        """The run with the state known from here: text and count, and after the terminal event all that the store
        will have of its end. `finish` and `run.get` both take it from here, so that no reader sees a part of an end.
        """
        end = self.terminal
        if end is None:
            return msgspec.structs.replace(run, text=self.transcript.text, count=self.seq)
        error = str(end.get("code", ""))
        return msgspec.structs.replace(
            run,
            state=state_after(end),
            text=self.transcript.text,
            count=self.seq,
            digest=str(end.get("digest", "")),
            usage=msgspec.json.encode(end.get("usage", [])).decode(),
            result=msgspec.json.encode(end.get("result")).decode(),
            error=error,
            error_message=str(end.get("message", "")) if error else "",
            finished_at=run.finished_at
            or max(run.started_at, end.get("timestamp", 0) / 1000),  # whole milliseconds
        )

    def has(self, event: Event, data: bytes) -> bool:
        """Whether this entry is an event of the fold: the same number does not make it one, because in another log
        another owner numbers from 1 as well.
        """
        seq: int = event["seq"]
        return 0 < seq <= len(self.prints) and self.prints[seq - 1] == hash(data)

    def _follows(self, at: Position) -> bool:
        """Whether a position comes after the last event's in the same log."""
        return at.epoch == self.epoch and at.offset > self.offset


class RunLogReader:
    """A run read back from its thread's log; `catch_up` reads what was appended since.

    Attributes:
        log_state: the fold.
        order: the order checker in the state after the last event (a new owner has to publish its `closing_events`
            first).
    """

    def __init__(self, services: RunServices, run: Run) -> None:
        self._services = services
        self._run = run
        self._channel = channel_key(run.tenant, thread_channel(run.thread_id))
        self._begin()

    def _begin(self, reach: str = "whole") -> None:
        self.log_state, self.order = RunLogState(), EventOrder()
        self.log_state.reach = reach
        self._at = Position(self._run.start_offset, self._run.start_epoch)

    async def catch_up(self) -> RunLogState:
        """Read to the end of the log.

        Raises:
            DependencyError: the broker cannot be reached; the events read before that count.
        """
        page = await self._page(self._at)
        if not page.complete or page.top.offset < self._at.offset:
            page = await self._restart(page)
        while True:
            for publication in page.publications:
                event = event_of(publication.data, self._run.run_id)
                if event is not None:
                    self._take(event, publication, page.top.epoch)
            last = page.publications[-1].offset if page.publications else page.top.offset
            self._at = Position(last, page.top.epoch)
            self.log_state.top = page.top
            if last >= page.top.offset:
                return self.log_state
            page = await self._page(self._at)
            if not page.complete:  # lost or trimmed while it was read
                page = await self._restart(page)

    async def _restart(self, page: Page) -> Page:
        """The log was trimmed, or is another one: read its events; their seq shows whether they are complete."""
        began_in = self._run.start_epoch
        gone = page.top.epoch != began_in if began_in else page.top.offset < self._run.start_offset
        self._begin("gone" if gone else "cut")
        page = await self._page(None)
        self.log_state.broken = gone
        return page

    async def _page(self, since: Position | None) -> Page:
        return await self._services.broker.history(self._channel, since=since, limit=MAX_HISTORY_PAGE)

    def _take(self, event: Event, publication: Publication, epoch: str) -> None:
        at = Position(publication.offset, epoch)
        if not self.log_state.seq and event["seq"] > 1:
            self.order.begin()  # otherwise the new owner could publish nothing, not even a restart
        self.log_state.feed(event, publication.data, at, publication.at or self._services.now())
        self.order.check(event)
        if event.get("name") == "narthex.restarted":
            self.order.forget()


async def read_back(services: RunServices, run: Run) -> tuple[RunLogState, EventOrder]:
    """Read a run's events back from its thread's log, once. Raises as `RunLogReader.catch_up`."""
    reader = RunLogReader(services, run)
    return await reader.catch_up(), reader.order


def event_of(data: bytes, run_id: str) -> Event | None:
    """The run's event in a publication, else None."""
    if run_id.encode() not in data:  # skips events of other runs and of users without parsing them
        return None
    event = msgspec.json.decode(data)
    if isinstance(event, dict) and event.get("runId") == run_id and isinstance(event.get("seq"), int):
        return event
    return None
