"""A run as its log tells it: seq, digest, transcript, what is open; fed live, or read back from the channel.

Rule: what is folded here is durable. A gap in `seq` (the log itself lost events) marks it `broken`: such a
run ends without a digest, because no digest would be true.
"""

from __future__ import annotations

import msgspec

from narthex.app.runs.services import RunServices
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.digest import Digest
from narthex.domain.event_order import EventOrder
from narthex.domain.events import Event, is_terminal
from narthex.domain.transcript import Transcript
from narthex.ports.broker import MAX_HISTORY_PAGE, Position
from narthex.ports.runs import Run


class Replay:
    """The fold.

    Attributes:
        seq: the last event's; 0 when there is none.
        terminal: the terminal event, once it is there.
        broken: events are missing, or one has no normal form.
        offset: channel offset of the last event.
    """

    __slots__ = ("broken", "digest", "offset", "seq", "terminal", "transcript")

    def __init__(self) -> None:
        self.seq = 0
        self.digest = Digest()
        self.transcript = Transcript()
        self.terminal: Event | None = None
        self.broken = False
        self.offset = 0

    def feed(self, event: Event, *, offset: int, at: float) -> None:
        """Take the next durable event."""
        if event["seq"] != self.seq + 1:
            self.broken = True
        self.seq = event["seq"]
        self.offset = offset
        try:
            self.digest.feed(event)
        except (
            ValueError
        ):  # intake lets none in; one that is there all the same must not keep the run from ending
            self.broken = True
        self.transcript.feed(event, offset=offset, at=at)
        if is_terminal(event):
            self.terminal = event


async def read_back(services: RunServices, run: Run) -> tuple[Replay, EventOrder]:
    """Read a run's events back from its thread's log.

    Returns:
        The fold, and the order checker in the state after the last event (its `closing_events` are what a new
        owner has to publish first).

    Raises:
        DependencyError: the broker cannot be reached.
    """
    replay, order = Replay(), EventOrder()
    channel = channel_key(run.tenant, thread_channel(run.thread_id))
    since: Position | None = Position(run.start_offset, "")
    page = await services.broker.history(channel, since=since, limit=MAX_HISTORY_PAGE)
    if not page.complete or page.top.offset < run.start_offset:
        # Trimmed, or a new epoch: whatever is there, its seq says whether it is whole.
        page = await services.broker.history(channel, since=None, limit=MAX_HISTORY_PAGE)
    while page.publications:
        for publication in page.publications:
            event = _event_of(publication.data, run.run_id)
            if event is not None:
                replay.feed(event, offset=publication.offset, at=publication.at or services.now())
                order.check(event)
                if event.get("name") == "narthex.restarted":
                    order.forget()
        last = page.publications[-1].offset
        if last >= page.top.offset:
            break
        page = await services.broker.history(
            channel, since=Position(last, page.top.epoch), limit=MAX_HISTORY_PAGE
        )
    return replay, order


def _event_of(data: bytes, run_id: str) -> Event | None:
    if run_id.encode() not in data:  # other runs' and people's events, without parsing them
        return None
    event = msgspec.json.decode(data)
    if isinstance(event, dict) and event.get("runId") == run_id and isinstance(event.get("seq"), int):
        return event
    return None
