"""The interface of the store for run records, leases and approvals.

Not here: a run's events, which are in the broker's log (`ports/broker.py`). Guarantees: every method is one atomic,
durable step. `claim` gives a run to one owner at a time; a step that names an owner changes nothing once that owner has
lost its lease (fencing is by owner *and* attempt). No clock decides on a lease: another node takes it over when it has
seen it unchanged for long enough (`take_over`), and `now` and `lease_until` are only written for nodes of the previous
version. No clock decides on an order either: runs of a thread come in the order of their messages in the log, runs of
several threads in the order of their starts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from narthex.domain.runs import ACTIVE
from narthex.ports.broker import Position
from narthex.ports.threads import KEEPS_ALL, Kept

MAX_REPORT: Final = 4_096
"""Characters of an ended run's usage, and of its result, in a page of hundreds of runs; `Runs.get` has larger ones."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of an agent. Moments are seconds since the epoch; 0.0 means not yet.

    Attributes:
        state: a state of `narthex.domain.runs`: queued, running, finished, interrupted, cancelled, failed.
        client_message_id: the idempotency key of `run.start`, unique per tenant and user.
        message_id: the user message that started it.
        concurrent_limit: the plan's limit when it was started; `claim` enforces it.
        identity: the starter, JSON of `Identity` without token fields; the agent sees it as `user`.
        traffic: `user`, `guest`, `e2e` or `probe`.
        start_offset: channel offset just before its first event; of a run that has not begun, any offset before its
            events.
        start_epoch: the epoch of that offset; empty: not known.
        owner: node id of the lease holder, empty when none. On a *queued* run it is a reservation: the node
            that holds the coroutine which this run resumes, until `take_over` lifts it.
        attempt: 1 for the first; a restart after owner loss adds one.
        cancel_requested_by: id of the user who requested its cancellation, else empty.
        count: the last `seq`.
        digest: of the normal form, set with the terminal event.
        text: the run's whole answer text.
        error: code of a RUN_ERROR, empty otherwise.
        error_message: that event's message.
        unclosed: cancelled in the queue, and its terminal event is not known to be in the log yet.
        trace: the position in the trace of the command that started it (`domain.traces.decoded_trace`); empty: none.
        client_run_id: the id that an AG-UI client gave it; empty: none. Several runs may have the same.
        usage: what its models reported, a JSON list of AG-UI's TokenUsage.
        result: JSON of its RUN_FINISHED's `result`; `null`: it has none.
    """

    run_id: str
    thread_id: str
    tenant: str
    user_id: str
    agent: str
    state: str
    client_message_id: str
    message_id: str
    created_at: float
    parent_run_id: str = ""
    concurrent_limit: int = 1
    identity: str = "{}"
    traffic: str = "user"
    started_at: float = 0.0
    finished_at: float = 0.0
    start_offset: int = 0
    start_epoch: str = ""
    owner: str = ""
    lease_until: float = 0.0
    attempt: int = 0
    restartable: bool = False
    cancel_requested_by: str = ""
    count: int = 0
    digest: str = ""
    text: str = ""
    error: str = ""
    error_message: str = ""
    unclosed: bool = False
    trace: str = ""
    client_run_id: str = ""
    usage: str = "[]"
    result: str = "null"

    @property
    def over(self) -> bool:
        """Whether it has ended, and the log has its terminal event."""
        return self.state not in ACTIVE and not self.unclosed


class RunOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an ended run; members as in `Run`, without its text. `usage` and `result` are empty where they are
    longer than `MAX_REPORT`.
    """

    run_id: str
    state: str
    agent: str
    user_id: str
    message_id: str
    parent_run_id: str
    created_at: float
    started_at: float
    finished_at: float
    attempt: int
    cancel_requested_by: str
    count: int
    digest: str
    error: str
    error_message: str
    usage: str
    result: str


class LeaseSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A lease (of a running run) or a reservation (of a queued one) as it was read. Every renewal changes it."""

    tenant: str
    run_id: str
    state: str
    owner: str
    attempt: int
    beat: int
    lease_until: float
    agent: str
    restartable: bool


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The queued runs of all tenants.

    Attributes:
        length: their number.
        oldest_at: `created_at` of the oldest one that any node with its agent could claim now; infinity: there is none.
        heads: agent → id of the oldest run that any node with this agent could claim now.
    """

    length: int = 0
    oldest_at: float = float("inf")
    heads: Mapping[str, str] = msgspec.field(default_factory=dict)


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """An open or answered approval. `schema` and `payload` are JSON text; `resume_run_id` is the new run's.

    `node` is the node whose memory holds the waiting coroutine; the run that answers is reserved for it.
    `answerable_by` is a text of `domain.answer_permission`; empty is its default. `detail` is the JSON text of
    what AG-UI's Interrupt has besides. `status` is AG-UI's, of the answer: `resolved` or `cancelled`; empty: none yet.
    """

    interrupt_id: str
    run_id: str
    thread_id: str
    tenant: str
    text: str
    schema: str
    created_at: float
    expires_at: float
    answered_by: str = ""
    payload: str = ""
    resume_run_id: str = ""
    node: str = ""
    answerable_by: str = ""
    detail: str = "{}"
    status: str = ""


class Runs(Protocol):
    """Runs of all tenants."""

    async def start(self, run: Run, *, queue_limit: int, run_input: str = "") -> tuple[Run, bool]:
        """Insert as `queued`. The same (tenant, user, client_message_id) gives the earlier run and False.
        `run_input` is kept until the run is over.

        Raises:
            ClientError: code `queue_full` when the thread has `queue_limit` queued runs (an idle one takes a run
                even with a limit of 0: it does not wait), `thread_not_found` when there is no such thread (any more),
                so that no run outlives its thread's deletion.
        """

    async def get(self, tenant: str, run_id: str) -> Run | None:
        """The run, or None."""

    async def given(self, run: Run) -> tuple[str, str]:
        """The `run_input` of a run that is not over, and the state that its agent's last run in the thread left; empty
        where there is none.
        """

    async def by_client_run(self, tenant: str, client_run_id: str) -> list[Run]:
        """The newest runs to which clients of the tenant gave this id, newest first, at most 20."""

    async def agent_states(self, tenant: str, thread_id: str) -> dict[str, str]:
        """Agent → JSON text of the state that its last run in the thread left."""

    async def by_client_message(self, tenant: str, user_id: str, client_message_id: str) -> Run | None:
        """The run that this `client_message_id` started, or None."""

    async def claim(
        self, owner: str, now: float, lease_s: float, limit: int, agents: Collection[str]
    ) -> list[Run]:
        """Move up to `limit` queued runs to `running` under a lease and return them (attempt counted up).

        A run is claimable when it is the first one of its thread, no run of the thread is running, its user has fewer
        than `concurrent_limit` running, and it is one of `agents` or reserved for the caller (its `owner`). A run that
        is reserved for another node is not claimable. Fair: tenants with the fewest running first, then the oldest.
        """

    async def give_back(self, run: Run, now: float) -> Run | None:
        """Queue a claimed run again, at its old place, as if it had not been claimed: its agent has not begun. A run
        whose cancel was requested becomes `cancelled` and `unclosed` instead, as by `request_cancel` in the queue.
        Returns the run after the step; None when (owner, attempt) no longer holds it.
        """

    async def queue(self) -> Queue:
        """The queue as it is now."""

    async def queue_position(self, tenant: str, run_id: str) -> int:
        """The number of runs before it in its thread or in its user's quota; 0 when next or not queued."""

    async def renew(self, owner: str, now: float, lease_s: float, held: Collection[str]) -> list[str]:
        """Renew the leases of `owner` on the runs `held` that no other node took over, and its reservations of queued
        runs; returns the ids of the *running* runs among `held` that it still owns.

        A run that carries its name and is not `held` was claimed by a call whose answer got lost: its lease is not
        renewed, so some node takes it over.
        """

    async def started(self, run: Run, at: Position, now: float) -> bool:
        """Record the position after which its events begin. False when the lease is lost."""

    async def finish(
        self,
        run: Run,
        *,
        state: str,
        count: int,
        digest: str,
        text: str,
        error: str,
        now: float,
        error_message: str = "",
        usage: str = "[]",
        result: str = "null",
        agent_state: str | None = None,
    ) -> bool:
        """Terminal step; False when (owner, attempt) no longer holds it or it is terminal already. With `agent_state`
        the agent's state in the thread becomes this JSON text in the same step.
        """

    async def request_cancel(self, tenant: str, run_id: str, by: str, now: float) -> Run | None:
        """Record the requesting user. A queued run becomes `cancelled` at once, and `unclosed`: its terminal event is
        still to be published. Returns the run after the step.
        """

    async def unclosed(self, limit: int) -> list[Run]:
        """Runs cancelled in the queue whose terminal event no node has confirmed (`closed`)."""

    async def closed(self, run: Run) -> None:
        """Record that the terminal event of a run cancelled in the queue is in the log; `run` has the end that it says.
        That end is not `cancelled` if the run had ended and the store went back to a moment at which it was queued.
        """

    async def cancel_requests(self, owner: str) -> list[Run]:
        """Running runs of `owner` with `cancel_requested_by` set (control messages may get lost)."""

    async def leases(self) -> list[LeaseSeen]:
        """Every current lease and reservation."""

    async def take_over(
        self, owner: str, lapsed: Sequence[LeaseSeen], now: float, lease_s: float
    ) -> list[Run]:
        """Take over leases that the caller saw unchanged for so long that their owner must be dead, at most 200 a call.

        Running runs that are still exactly as seen become `owner`'s, with `attempt` counted up, and are returned. A
        reservation that is still as seen is lifted: any node may claim the run. Leases that changed meanwhile stay.
        """

    async def unreserve(self, owner: str, waiting: Collection[str]) -> int:
        """Lift the reservations of `owner` (it drains), except those of runs that continue one of the runs `waiting`.
        Returns how many any node may claim now.
        """

    async def release(self, owner: str, asked: Collection[tuple[str, str]] = ()) -> int:
        """End every lease and reservation of `owner` (a clean stop): the runs have no owner then, so that other nodes
        need not wait for the leases to lapse. `asked`: tenant and id of each interrupt whose agent waited there; the
        run that answers it is reserved for no node.
        """

    async def active_in_thread(self, tenant: str, thread_id: str) -> list[Run]:
        """Queued and running runs, in the order of their messages in the log."""

    async def active_in_threads(self, tenant: str, thread_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Thread and id of each queued and running run of some threads, in the order of each thread's log."""

    async def list_in_thread(self, tenant: str, thread_id: str, limit: int) -> list[Run]:
        """The newest runs, newest first, in the order of their messages in the log."""

    async def outcomes(
        self,
        tenant: str,
        thread_id: str,
        *,
        since: float,
        before: float | None,
        before_id: str = "",
        run_ids: Collection[str],
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[RunOutcome]:
        """Ended runs of a thread, oldest first, by `created_at` and id: those of `run_ids`, and those with `since` <=
        `created_at` < `before` (None: no end; with `before_id` also those of that moment with a smaller id); at most
        `limit`, the newest. Runs that are older than their owner's plan keeps (`kept`) are absent.
        """

    async def active_count(self, tenant: str, user_id: str) -> int:
        """Queued and running runs of a user."""

    async def open_interrupt(self, interrupt: Interrupt) -> None:
        """Keep an approval that waits for an answer, for `expires_at` - `created_at` seconds: the store measures them
        on its own clock, and stores its own `expires_at`.
        """

    async def interrupt(self, tenant: str, interrupt_id: str) -> Interrupt | None:
        """The approval, or None."""

    async def open_interrupts(self, tenant: str, thread_id: str) -> list[Interrupt]:
        """Unanswered, unexpired approvals of a thread."""

    async def interrupts_of(self, tenant: str, thread_id: str, run_ids: Collection[str]) -> list[Interrupt]:
        """The approvals that these runs ended with, answered, open or expired; oldest first."""

    async def answer_interrupt(
        self,
        tenant: str,
        interrupt_id: str,
        *,
        by: str,
        payload: str,
        resume: Run,
        status: str = "resolved",
        run_input: str = "",
    ) -> Interrupt | None:
        """Answer once, and insert `resume` as a queued run in the same step; its `owner` and `lease_until`
        are a reservation. Where the run (`resume.parent_run_id`) asked several questions, the answer to the last open
        one inserts it, with `run_input`; the answers before have its id already.

        A second answer changes nothing and returns the first's record. None when there is no such interrupt
        or it expired.
        """
