"""Deliveries of recorded runs on this node, as events of spans: no span for each, and nothing for runs without a trace.

    run on this node            → events of the run's own span
    run started here, elsewhere → events of one span `deliver`, below the command that started it

Not here: fan-out (`hub`), which calls `watched` for channels that it has a watcher of. Rules: a publication in any
other channel costs a look at an empty dict; the number of runs that are followed, and of events, is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.broker import Publication
from narthex.ports.runs import Run
from narthex.ports.tracing import NO_SPAN, Span

MAX_RUNS: Final = 1_000
MAX_EVENTS: Final = 64  # of one span; the SDK keeps 128
_ENDS: Final = (b'"type":"RUN_FINISHED"', b'"type":"RUN_ERROR"')

Watcher = Callable[[Publication, int], None]
"""Takes a publication that the hub hands on, and its number of subscribers on this node."""


class DeliveredRun(Protocol):
    """A run that this node executes (`app.runs.run_trace.RunTrace`)."""

    def delivered(self, offset: int, subscribers: int) -> None:
        """The hub hands a publication of the run to its subscribers."""


class _Followed:
    """One run: the span of its start, and where its deliveries go."""

    __slots__ = ("began", "channel", "count", "mark", "own", "span")

    def __init__(self, run: Run, began: Span) -> None:
        self.channel = channel_key(run.tenant, thread_channel(run.thread_id))
        self.mark = f'"runId":"{run.run_id}"'.encode()
        self.began = began
        self.own: DeliveredRun | None = None
        self.span: Span = NO_SPAN
        self.count = 0


class DeliveryTraces:
    """See the module.

    Attributes:
        watchers: by channel key; the hub reads it.
    """

    def __init__(self) -> None:
        self.watchers: dict[str, Watcher] = {}
        self._runs: dict[str, _Followed] = {}
        self._by_channel: dict[str, dict[str, _Followed]] = {}

    def started(self, run: Run, span: Span) -> None:
        """A recorded command, of this span, started the run."""
        if span.recording and run.run_id not in self._runs:
            self._follow(run, span)

    def executes(self, run: Run, trace: DeliveredRun, span: Span) -> None:
        """This node executes the run: its deliveries are events of `span`, which `trace` has."""
        if not span.recording:
            return
        found = self._runs.get(run.run_id) or self._follow(run, span)
        found.own = trace

    def ended(self, run: Run) -> None:
        """This node does not execute the run any more."""
        self._forget(run.run_id)

    def _follow(self, run: Run, span: Span) -> _Followed:
        while len(self._runs) >= MAX_RUNS:
            self._forget(next(iter(self._runs)))
        found = self._runs[run.run_id] = _Followed(run, span)
        self._by_channel.setdefault(found.channel, {})[run.run_id] = found
        self.watchers[found.channel] = lambda publication, subscribers: self._watched(
            found.channel, publication, subscribers
        )
        return found

    def _watched(self, channel: str, publication: Publication, subscribers: int) -> None:
        for run_id, found in list(self._by_channel.get(channel, {}).items()):
            if found.mark not in publication.data:
                continue
            if found.own is not None:
                found.own.delivered(publication.offset, subscribers)
                return
            if found.span is NO_SPAN:
                found.span = found.began.child(
                    "deliver", kind="consumer", attributes={"narthex.run_id": run_id}
                )
            found.count += 1
            if found.count <= MAX_EVENTS:
                found.span.event(
                    "delivery", {"narthex.offset": publication.offset, "narthex.subscribers": subscribers}
                )
            if any(end in publication.data for end in _ENDS):
                self._forget(run_id)
            return

    def _forget(self, run_id: str) -> None:
        found = self._runs.pop(run_id, None)
        if found is None:
            return
        found.span.set({"narthex.run.deliveries": found.count})
        found.span.end()
        beside = self._by_channel[found.channel]
        del beside[run_id]
        if not beside:
            del self._by_channel[found.channel], self.watchers[found.channel]
