"""A broker and a store in memory, as small as the run engine's tests need; they keep the ports' guarantees.

The fixture `rig` runs the same tests over the real SQLite engines; these are for faults that a real engine cannot be
made to show (an outage, a zombie, a lost acknowledgement).
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from narthex.domain.agent_input import is_same_result
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Control, LogMoved, Member, Page, Position, Publication, Published, fulfils
from narthex.ports.runs import Interrupt, LeaseSeen, Queue, Run, RunOutcome, Runs
from narthex.ports.telemetry import Source
from narthex.ports.threads import (
    KEEPS_ALL,
    Departure,
    Hit,
    Kept,
    LogCut,
    Membership,
    Message,
    OwnerPlan,
    PostResult,
    Purged,
    Thread,
    ThreadMember,
    Threads,
)


class FakeBroker:
    """Logs in memory. `fail_publishes` makes that many publishes raise; `lose_acks` append and then raise."""

    durability = "none"

    positions_exact = True

    def __init__(self) -> None:
        self.logs: dict[str, list[Publication]] = {}
        self.keys: dict[tuple[str, str], int] = {}
        self.controls: list[Control] = []
        self.epoch = "e"
        self.fail_publishes = 0
        self.lose_acks = 0
        self.delay_s = 0.0
        self.in_flight = 0
        self.most_in_flight = 0
        self.published = asyncio.Event()

    def events(self, channel: str) -> list[dict[str, Any]]:
        """All events of a channel."""
        return [json.loads(entry.data) for entry in self.logs.get(channel, [])]

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.in_flight -= 1
        if self.fail_publishes > 0:
            self.fail_publishes -= 1
            raise DependencyError("broker", "The fake broker is away.")
        log = self.logs.setdefault(channel, [])
        if key is not None and (channel, key) in self.keys:
            return Published(self.keys[channel, key], self.epoch, duplicate=True)
        if expected is not None and not fulfils(end := Position(len(log), self.epoch), expected):
            raise LogMoved(end)
        log.append(Publication(len(log) + 1, data, tags))
        if key is not None:
            self.keys[channel, key] = len(log)
        self.published.set()
        if self.lose_acks > 0:
            self.lose_acks -= 1
            raise DependencyError("broker", "The acknowledgement got lost.")
        return Published(len(log), self.epoch)

    def lose(self) -> None:
        """Lose every log, as after a power cut without its disk: the epoch is new, and no key is known."""
        self.logs.clear()
        self.keys.clear()
        self.epoch += "e"

    def known_position(self, channel: str) -> Position | None:
        return Position(len(self.logs[channel]), self.epoch) if channel in self.logs else None

    async def behind(self, known: Mapping[str, Position]) -> Mapping[str, Position]:
        ends = {channel: (await self.history(channel, limit=0)).top for channel in known}
        return {channel: end for channel, end in ends.items() if end != known[channel]}

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        log = self.logs.get(channel, [])
        start = since.offset if since else 0
        top = Position(log[-1].offset if log else 0, self.epoch)
        if since is not None and since.epoch not in {"", self.epoch}:
            return Page([], top, complete=False)
        found = [entry for entry in log if entry.offset > start][: limit if limit is not None else None]
        complete = not log or log[0].offset <= start + 1
        return Page(found, top, complete)

    async def trim(self, channel: str, through: Position) -> None:
        if through.epoch == self.epoch:
            self.logs[channel] = [entry for entry in self.logs[channel] if entry.offset > through.offset]

    async def control(self, message: Control) -> None:
        self.controls.append(message)

    async def start(self, handler: object, node: str) -> None: ...
    async def stop(self) -> None: ...
    def subscribe(self, channel: str) -> None: ...
    def unsubscribe(self, channel: str) -> None: ...
    async def remove(self, channel: str) -> None:
        self.logs.pop(channel, None)

    async def join(self, channel: str, member: Member) -> None: ...
    async def leave(self, channel: str, client: str) -> None: ...
    async def members(self, channel: str) -> Mapping[str, Member]:
        return {}

    async def ping(self) -> None: ...


class FakeRuns:
    """Run records in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Run] = {}
        self.beats: dict[str, int] = {}
        self.unclosed_ids: set[str] = set()
        self.interrupts: dict[str, Interrupt] = {}
        self.fail_finishes = 0
        self.inputs: dict[str, str] = {}
        self.states: dict[tuple[str, str], str] = {}

    def _set(self, run: Run, **changes: Any) -> Run:
        self.rows[run.run_id] = msgspec.structs.replace(self.rows[run.run_id], **changes)
        return self.rows[run.run_id]

    async def given(self, run: Run) -> tuple[str, str]:
        return self.inputs.get(run.run_id, ""), self.states.get((run.thread_id, run.agent), "")

    async def by_client_run(self, tenant: str, client_run_id: str) -> list[Run]:
        return [run for run in self.rows.values() if run.client_run_id == client_run_id != ""]

    async def agent_states(self, tenant: str, thread_id: str) -> dict[str, str]:
        return {agent: state for (thread, agent), state in self.states.items() if thread == thread_id}

    async def start(self, run: Run, *, queue_limit: int, run_input: str = "") -> tuple[Run, bool]:
        known = await self.by_client_message(run.tenant, run.user_id, run.client_message_id)
        if known:
            return known, False
        queued = [r for r in self.rows.values() if r.thread_id == run.thread_id and r.state == "queued"]
        running = [r for r in self.rows.values() if r.thread_id == run.thread_id and r.state == "running"]
        if len(queued) >= queue_limit and queued + running:
            raise ClientError("queue_full", "The thread's queue is full.", number=429)
        self.rows[run.run_id] = run
        if run_input:
            self.inputs[run.run_id] = run_input
        return run, True

    async def get(self, tenant: str, run_id: str) -> Run | None:
        run = self.rows.get(run_id)
        return run if run and run.tenant == tenant else None

    async def by_client_message(self, tenant: str, user_id: str, client_message_id: str) -> Run | None:
        for run in self.rows.values():
            if (run.tenant, run.user_id, run.client_message_id) == (tenant, user_id, client_message_id):
                return run
        return None

    async def claim(
        self, owner: str, now: float, lease_s: float, limit: int, agents: Collection[str]
    ) -> list[Run]:
        claimed: list[Run] = []
        for run in sorted(self.rows.values(), key=lambda r: r.created_at):
            if run.state != "queued" or len(claimed) >= limit:
                continue
            if run.owner != owner and (run.owner or run.agent not in agents):
                continue
            running = [r for r in self.rows.values() if r.state == "running"]
            mine = [r for r in running if (r.tenant, r.user_id) == (run.tenant, run.user_id)]
            if any(r.thread_id == run.thread_id for r in running) or len(mine) >= run.concurrent_limit:
                continue
            self._beat(run)
            claimed.append(
                self._set(
                    run, state="running", owner=owner, lease_until=now + lease_s, attempt=run.attempt + 1
                )
            )
        return claimed

    async def give_back(self, run: Run, now: float) -> Run | None:
        if not self._held(run):
            return None
        self._beat(run)
        started_at = 0.0 if run.attempt == 1 else self.rows[run.run_id].started_at
        kept = self._set(
            run, state="queued", owner="", lease_until=0.0, attempt=run.attempt - 1, started_at=started_at
        )
        return (
            await self.request_cancel(run.tenant, run.run_id, by, now)
            if (by := kept.cancel_requested_by)
            else kept
        )

    async def queue(self) -> Queue:
        queued = [r for r in self.rows.values() if r.state == "queued"]
        free = sorted((r for r in queued if not r.owner), key=lambda r: r.created_at, reverse=True)
        return Queue(
            length=len(queued),
            oldest_at=min((r.created_at for r in free), default=math.inf),
            heads={r.agent: r.run_id for r in free},
        )

    async def queue_position(self, tenant: str, run_id: str) -> int:
        run = self.rows[run_id]
        return sum(
            r.thread_id == run.thread_id and r.state == "queued" and r.created_at < run.created_at
            for r in self.rows.values()
        )

    async def renew(self, owner: str, now: float, lease_s: float, held: Collection[str]) -> list[str]:
        mine = [
            r
            for r in self.rows.values()
            if r.owner == owner and (r.state == "queued" or (r.state == "running" and r.run_id in held))
        ]
        for run in mine:
            self._beat(run)
            self._set(run, lease_until=now + lease_s)
        return [run.run_id for run in mine if run.state == "running"]

    async def started(self, run: Run, at: Position, now: float) -> bool:
        if not self._held(run):
            return False
        self._set(run, start_offset=at.offset, start_epoch=at.epoch, started_at=now)
        return True

    def _beat(self, run: Run) -> None:
        self.beats[run.run_id] = self.beats.get(run.run_id, 0) + 1

    def _held(self, run: Run) -> bool:
        row = self.rows[run.run_id]
        return (row.owner, row.attempt, row.state) == (run.owner, run.attempt, "running")

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
        if self.fail_finishes > 0:
            self.fail_finishes -= 1
            raise DependencyError("store", "The fake store is away.")
        if not self._held(run):
            return False
        self._set(
            run,
            state=state,
            count=count,
            digest=digest,
            text=text,
            error=error,
            error_message=error_message,
            usage=usage,
            result=result,
            finished_at=now,
            owner="",
        )
        self.inputs.pop(run.run_id, None)
        if agent_state is not None:
            self.states[run.thread_id, run.agent] = agent_state
        return True

    async def request_cancel(self, tenant: str, run_id: str, by: str, now: float) -> Run | None:
        run = await self.get(tenant, run_id)
        if run is None or run.state not in {"queued", "running"}:
            return run
        state = "cancelled" if run.state == "queued" else run.state
        if run.state == "queued":
            self.unclosed_ids.add(run_id)
        return self._set(run, cancel_requested_by=by, state=state, unclosed=run_id in self.unclosed_ids)

    async def cancel_requests(self, owner: str) -> list[Run]:
        return [
            r
            for r in self.rows.values()
            if r.owner == owner and r.state == "running" and r.cancel_requested_by
        ]

    async def leases(self) -> list[LeaseSeen]:
        return [
            LeaseSeen(
                tenant=r.tenant,
                run_id=r.run_id,
                state=r.state,
                owner=r.owner,
                attempt=r.attempt,
                beat=self.beats.get(r.run_id, 0),
                lease_until=r.lease_until,
                agent=r.agent,
                restartable=r.restartable,
            )
            for r in self.rows.values()
            if r.state == "running" or (r.state == "queued" and r.owner)
        ]

    async def take_over(
        self, owner: str, lapsed: Sequence[LeaseSeen], now: float, lease_s: float
    ) -> list[Run]:
        as_it_is = await self.leases()
        taken: list[Run] = []
        for seen in lapsed:
            if seen not in as_it_is:
                continue
            run = self.rows[seen.run_id]
            self._beat(run)
            if seen.state == "queued":
                self._set(run, owner="")
            else:
                taken.append(self._set(run, owner=owner, lease_until=now + lease_s, attempt=run.attempt + 1))
        return taken

    async def unreserve(self, owner: str, waiting: Collection[str]) -> int:
        queued = [r for r in self.rows.values() if r.owner == owner and r.state == "queued"]
        return self._release([r for r in queued if r.parent_run_id not in waiting])

    async def release(self, owner: str, asked: Collection[tuple[str, str]] = ()) -> int:
        for _, interrupt_id in asked:
            interrupt = self.interrupts[interrupt_id]
            if interrupt.node == owner:
                self.interrupts[interrupt_id] = msgspec.structs.replace(interrupt, node="")
        return self._release(
            [r for r in self.rows.values() if r.owner == owner and r.state in {"queued", "running"}]
        )

    def _release(self, mine: list[Run]) -> int:
        for run in mine:
            self._beat(run)
            self._set(run, owner="", lease_until=0.0)
        return len(mine)

    async def unclosed(self, limit: int) -> list[Run]:
        return [self.rows[run_id] for run_id in sorted(self.unclosed_ids)][:limit]

    async def closed(self, run: Run) -> None:
        if run.run_id in self.unclosed_ids:
            self.unclosed_ids.remove(run.run_id)
            self.rows[run.run_id] = msgspec.structs.replace(run, unclosed=False)

    async def active_in_thread(self, tenant: str, thread_id: str) -> list[Run]:
        return [
            r for r in self.rows.values() if r.thread_id == thread_id and r.state in {"queued", "running"}
        ]

    async def active_in_threads(self, tenant: str, thread_ids: Sequence[str]) -> list[tuple[str, str]]:
        return [
            (run.thread_id, run.run_id)
            for thread_id in thread_ids
            for run in await self.active_in_thread(tenant, thread_id)
        ]

    async def list_in_thread(self, tenant: str, thread_id: str, limit: int) -> list[Run]:
        return [r for r in self.rows.values() if r.thread_id == thread_id][:limit]

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
        names = RunOutcome.__struct_fields__
        found = [
            RunOutcome(**{name: getattr(r, name) for name in names})
            for r in self.rows.values()
            if r.thread_id == thread_id
            and r.state not in {"queued", "running"}
            and (r.run_id in run_ids or since <= r.created_at < (math.inf if before is None else before))
        ]
        return sorted(found, key=lambda r: (r.created_at, r.run_id))[-limit:]

    async def active_count(self, tenant: str, user_id: str) -> int:
        return sum(r.user_id == user_id and r.state in {"queued", "running"} for r in self.rows.values())

    async def open_interrupt(self, interrupt: Interrupt) -> None:
        expires_at = time.monotonic() + (interrupt.expires_at - interrupt.created_at)
        kept = msgspec.structs.replace(interrupt, expires_at=expires_at)
        self.interrupts.setdefault(interrupt.interrupt_id, kept)

    async def interrupt(self, tenant: str, interrupt_id: str) -> Interrupt | None:
        return self.interrupts.get(interrupt_id)

    async def open_interrupts(self, tenant: str, thread_id: str) -> list[Interrupt]:
        return [
            i
            for i in self.interrupts.values()
            if i.thread_id == thread_id and not i.resume_run_id and i.expires_at > time.monotonic()
        ]

    async def interrupts_of(self, tenant: str, thread_id: str, run_ids: Collection[str]) -> list[Interrupt]:
        return [i for i in self.interrupts.values() if i.run_id in run_ids]

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
        interrupt = self.interrupts.get(interrupt_id)
        if interrupt is None or (not interrupt.resume_run_id and interrupt.expires_at <= time.monotonic()):
            return None
        if not interrupt.resume_run_id:
            beside = [one for one in self.interrupts.values() if one.run_id == interrupt.run_id]
            known = [one.resume_run_id for one in beside if one.resume_run_id]
            resume = msgspec.structs.replace(resume, run_id=known[0] if known else resume.run_id)
            interrupt = msgspec.structs.replace(
                interrupt, answered_by=by, payload=payload, resume_run_id=resume.run_id, status=status
            )
            self.interrupts[interrupt_id] = interrupt
            if len(known) == len(beside) - 1:
                self.rows[resume.run_id] = resume
                if run_input:
                    self.inputs[resume.run_id] = run_input
        return interrupt


class FakeThreads:
    """Messages and members in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Message] = {}
        self.places: dict[tuple[str, str], int] = {}
        self.unsaid: dict[tuple[str, str], Position] = {}
        self.roles: dict[tuple[str, str, str], str] = {}
        self.threads: dict[tuple[str, str], Thread] = {}

    async def add_messages(
        self, tenant: str, messages: list[Message], places: Sequence[Position] | None = None
    ) -> None:
        for number, message in enumerate(messages):
            key = (message.thread_id, message.message_id)
            if key not in self.rows:
                self.rows[key] = message
                self.places[key] = places[number].offset if places else max(self.places.values(), default=0)

    async def answer_calls(self, tenant: str, thread_id: str, answers: Sequence[Message]) -> bool:
        known = [(row, one) for one in answers if (row := self.rows.get((thread_id, one.message_id)))]
        if any(is_same_result(row.detail, one.detail) is False for row, one in known):
            return False
        for row, one in known:
            self.rows[thread_id, one.message_id] = msgspec.structs.replace(
                row, content=one.content, detail=one.detail
            )
        return True

    async def post(self, tenant: str, message: Message, after: Position) -> PostResult:
        key = (message.thread_id, message.message_id)
        if key not in self.rows:
            self.rows[key], self.unsaid[key] = message, after
            self.places[key] = after.offset + 1
            return PostResult(fresh=True)
        if (self.rows[key].author, self.rows[key].content) != (message.author, message.content):
            return PostResult(fresh=False, same=False)
        if key in self.unsaid:
            return PostResult(fresh=False, after=self.unsaid[key])
        return PostResult(fresh=False, at=Position(self.rows[key].offset, "e"))

    async def posted(self, tenant: str, thread_id: str, message_id: str, first: Position, last: int) -> bool:
        key = (thread_id, message_id)
        if key not in self.rows:
            return False
        self.rows[key] = msgspec.structs.replace(self.rows[key], offset=last)
        self.places[key] = first.offset
        self.unsaid.pop(key, None)
        return True

    async def messages(
        self,
        tenant: str,
        thread_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Message]:
        found = [m for m in self.rows.values() if m.thread_id == thread_id]
        return sorted(found, key=lambda m: (self.places[m.thread_id, m.message_id], m.created_at))[-limit:]

    async def role(self, tenant: str, thread_id: str, user_id: str, *, kept: Kept = KEEPS_ALL) -> str | None:
        return self.roles.get((tenant, thread_id, user_id))

    async def create(
        self,
        thread: Thread,
        *,
        plan: str = "",
        plan_at: float = 0.0,
        limit: int | None = None,
        kept: Kept = KEEPS_ALL,
    ) -> bool:
        self.roles[thread.tenant, thread.thread_id, thread.created_by] = "owner"
        self.threads[thread.tenant, thread.thread_id] = thread
        return True

    async def get(self, tenant: str, thread_id: str, *, kept: Kept = KEEPS_ALL) -> Thread | None:
        return self.threads.get((tenant, thread_id))

    async def list_for(
        self,
        tenant: str,
        user_id: str,
        *,
        before: float | None,
        before_id: str = "",
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Thread]:
        return []

    async def rename(self, tenant: str, thread_id: str, title: str, now: float, *, by: str = "") -> bool:
        return False

    async def delete(self, tenant: str, thread_id: str, *, by: str = "") -> str:
        return "absent"

    async def members(self, tenant: str, thread_id: str) -> list[ThreadMember]:
        return []

    async def still_members(self, asked: Collection[Membership]) -> set[Membership]:
        return {one for one in asked if (one.tenant, one.thread_id, one.user_id) in self.roles}

    async def add_member(
        self, tenant: str, thread_id: str, member: ThreadMember, *, limit: int | None
    ) -> str:
        self.roles[tenant, thread_id, member.user_id] = member.role
        return "added"

    async def remove_member(self, tenant: str, thread_id: str, user_id: str, *, by: str = "") -> Departure:
        gone = self.roles.pop((tenant, thread_id, user_id), None)
        return Departure(outcome="absent" if gone is None else "removed")

    async def mark_read(self, tenant: str, thread_id: str, user_id: str, offset: int) -> bool:
        return False

    async def messages_after(
        self,
        tenant: str,
        thread_id: str,
        *,
        after_id: str,
        until_id: str,
        limit: int,
        kept: Kept = KEEPS_ALL,
    ) -> list[Message]:
        return []

    async def search(
        self, tenant: str, user_id: str, text: str, *, limit: int, kept: Kept = KEEPS_ALL
    ) -> list[Hit]:
        return []

    async def note_plan(self, owner: OwnerPlan) -> int:
        return 0

    async def purge(self, kept: Kept, *, limit: int, now: float) -> Purged:
        return Purged()

    async def log_cuts(self, limit: int) -> list[LogCut]:
        return []

    async def log_cut_done(self, cut: LogCut) -> None: ...


class FakeStore:
    """Runs and threads in memory; the run engine does not use the other ports."""

    durability = "none"

    def __init__(self) -> None:
        self.fake_runs = FakeRuns()
        self.runs: Runs = self.fake_runs
        self.fake_threads = FakeThreads()
        self.threads: Threads = self.fake_threads
        self.memberships: Any = None
        self.credentials: Any = None
        self.records: Any = None
        self.history: Any = None

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def ping(self) -> None: ...


class FakeMeter:
    """Keeps its counts and observations."""

    def __init__(self) -> None:
        self.counts: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.observed.setdefault(name, []).append(value)

    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        return lambda value: self.observe(name, value)

    def read_from(self, source: Source) -> None: ...
    def handshake(
        self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = ""
    ) -> None: ...
    def credential(self, carrier: str, result: str) -> None: ...
    def e2e_admission(self, result: str) -> None: ...
    def e2e_tests(self, result: str, count: int) -> None: ...
    def connections(self, traffic: str, delta: int) -> None: ...
    def disconnect(self, code: int) -> None: ...
    def breaker(self, dependency: str, traffic: str, state: str) -> None: ...
