"""The history limit end to end on the real engines: at N days everything is present, past them it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app.chat import Chat
from narthex.app.memberships import MembershipService
from narthex.app.notices import Notices
from narthex.app.quotas import Quotas
from narthex.app.retention import PurgeResult, Retention
from narthex.domain.channels import channel_key
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.plans import DAY_S, PLANS, kept_since, plan_of
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Position
from narthex.ports.threads import ThreadMember
from tests.app.runs.fakes import FakeMeter
from tests.app.test_chat import RecordingHandler
from tests.timing import within

BEGAN = 1_700_000_000.0
LIMITED = [plan for plan in PLANS.values() if plan.history_days is not None]


def owner(plan: str, subject: str = "ann") -> Identity:
    """A user on a plan; a guest for the guest plan."""
    kind = IdentityClass.GUEST if plan == "guest" else IdentityClass.USER
    return Identity(subject=subject, plan=plan, identity_class=kind, issued_at=BEGAN)


class Rig:
    """Chat and retention on real engines, whose clocks tests move."""

    def __init__(self, directory: Path) -> None:
        self.time = BEGAN
        self.broker = SqliteBroker(directory / "log.db", clock=self.now)
        self.store = SqliteStore(directory / "store.db")
        self.handler = RecordingHandler()
        self.meter = FakeMeter()
        self.rounds: list[PurgeResult] = []
        self.faults: list[BaseException] = []
        self.chat = Chat(
            self.store,
            self.broker,
            Notices(self.broker),
            plan_of,
            self.now,
            kept=lambda: kept_since(PLANS, self.time),
        )
        self.links = MembershipService(
            self.store, self.broker, Notices(self.broker), self.chat, plan_of, self.now
        ).links
        self.retention = self.make(600.0)
        self.quotas = Quotas(
            plan_of,
            self.store.runs,
            self.store.memberships,
            lambda _user: 1,
            self.now,
            lambda: kept_since(PLANS, self.time),
        )

    def make(self, every_s: float) -> Retention:
        return Retention(
            self.store.threads,
            self.broker,
            PLANS,
            self.meter,
            on_round=self.rounds.append,
            on_fault=self.faults.append,
            clock=self.now,
            every_s=every_s,
        )

    def now(self) -> float:
        return self.time

    async def say(self, who: Identity, thread_id: str, text: str) -> None:
        await self.chat.post(who, thread_id, f"m-{text}", text)

    async def shown(self, who: Identity, thread_id: str) -> list[str]:
        return [entry.content for entry in (await self.chat.view(who, thread_id, None, 200)).messages]

    async def logged(self, thread_id: str) -> int:
        page = await self.broker.history(channel_key("default", f"thread:{thread_id}"))
        return len(page.publications)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.store.start()
    await rig.broker.start(rig.handler, "node")
    yield rig
    await rig.broker.stop()
    await rig.store.stop()


@pytest.mark.parametrize("plan", LIMITED, ids=lambda plan: plan.name)
async def test_at_n_days_all_is_there_and_past_them_nothing(rig: Rig, plan: object) -> None:
    """By plan: hidden to the second, deleted with its log by the next purge."""
    assert isinstance(plan, type(LIMITED[0]))
    assert plan.history_days is not None
    who = owner(plan.name)
    thread = (await rig.chat.create(who, "Talk")).thread_id
    await rig.say(who, thread, "hello")

    rig.time = BEGAN + plan.history_days * DAY_S
    assert await rig.shown(who, thread) == ["hello"]
    assert [entry.thread_id for entry in await rig.chat.threads_of(who, None, 50)] == [thread]
    assert len(await rig.chat.search(who, "hello", 10)) == 1
    assert (await rig.retention.purge_once()).threads == 0

    rig.time += 1
    assert await rig.chat.threads_of(who, None, 50) == []
    assert await rig.chat.search(who, "hello", 10) == []
    for ask in (
        rig.chat.view(who, thread, None, 10),
        rig.chat.rename(who, thread, "x"),
        rig.chat.export(who, thread),
        rig.chat.delete(who, thread),
        rig.chat.mark_read(who, thread, 1),
        rig.chat.typing(who, thread),
        rig.links.make(who, thread, 7),
        rig.links.of_thread(who, thread),
        rig.links.revoke(who, thread),
    ):
        with pytest.raises(ClientError) as caught:
            await ask
        assert caught.value.code == "thread_not_found"
    assert await rig.store.threads.get("default", thread) is not None  # hidden, but still stored
    assert await rig.logged(thread) == 3

    done = await rig.retention.purge_once()
    assert (done.threads, done.messages, done.logs) == (1, 1, 1)
    assert await rig.store.threads.get("default", thread) is None
    assert await rig.logged(thread) == 0
    assert rig.handler.controls[-1].kind == "unsubscribe"
    assert rig.meter.counts["history_purged"] == 2
    assert (await rig.retention.purge_once()).logs == 0


async def test_the_limits_count_the_threads_that_the_limit_counts(rig: Rig) -> None:
    """A thread past the history limit makes room for another one, so `limits` leaves it out before it is deleted."""
    who = owner("free")
    await rig.chat.create(who, "Talk")
    assert (await rig.quotas.shown(who))["threads"] == {"limit": PLANS["free"].threads, "used": 1}
    assert PLANS["free"].history_days is not None
    rig.time += PLANS["free"].history_days * DAY_S + 1
    assert (await rig.quotas.shown(who))["threads"] == {"limit": PLANS["free"].threads, "used": 0}


@pytest.mark.parametrize("plan", [plan.name for plan in PLANS.values() if plan.history_days is None])
async def test_a_plan_without_end_keeps_all(rig: Rig, plan: str) -> None:
    """For ever."""
    who = owner(plan)
    thread = (await rig.chat.create(who, "Talk")).thread_id
    await rig.say(who, thread, "hello")
    rig.time = BEGAN + 10_000 * DAY_S
    await rig.retention.purge_once()
    assert await rig.shown(who, thread) == ["hello"]


async def test_a_thread_that_goes_on_loses_its_older_part(rig: Rig) -> None:
    """Rows and log; later ones keep their offsets, so that clients can continue."""
    who = owner("free")
    thread = (await rig.chat.create(who, "Talk")).thread_id
    for day in range(40):
        rig.time = BEGAN + day * DAY_S
        await rig.say(who, thread, f"day-{day}")
    rig.time = BEGAN + 39 * DAY_S + 1
    expected = [f"day-{day}" for day in range(10, 40)]
    assert await rig.shown(who, thread) == expected
    done = await rig.retention.purge_once()
    assert (done.threads, done.messages, done.logs) == (0, 10, 1)
    assert await rig.shown(who, thread) == expected
    key = channel_key("default", f"thread:{thread}")
    page = await rig.broker.history(key)
    assert page.publications[0].offset == 31  # ten messages of three events are gone
    assert page.top.offset == 120
    assert all(entry.at >= BEGAN + 9 * DAY_S for entry in page.publications)
    assert (await rig.broker.history(key, since=Position(60, page.top.epoch))).complete


async def test_an_id_that_is_past_its_limit_is_free_for_its_owner(rig: Rig) -> None:
    """A client that always uses one id (AG-UI) starts again without waiting for a purge; other users cannot take it."""
    who = owner("free")
    thread = (await rig.chat.create(who, "Talk", "main")).thread_id
    await rig.say(who, thread, "old")
    rig.time = BEGAN + 31 * DAY_S
    with pytest.raises(ClientError):
        await rig.chat.create(owner("free", "bob"), "Mine", "main")
    again = await rig.chat.create(who, "Anew", "main")
    assert again.created_at == rig.time
    assert await rig.shown(who, "main") == []
    assert await rig.logged("main") == 0
    await rig.say(who, "main", "new")
    assert (await rig.retention.purge_once()).logs == 0
    assert await rig.shown(who, "main") == ["new"]
    assert (await rig.chat.create(who, "Once more", "main")).title == "Anew"


async def test_an_upgrade_counts_before_anything_is_hidden_or_deleted(rig: Rig) -> None:
    """The first action of an upgraded user shows their old threads; the purge then keeps them."""
    who = owner("free")
    thread = (await rig.chat.create(who, "Talk")).thread_id
    await rig.say(who, thread, "hello")
    rig.time = BEGAN + 31 * DAY_S
    upgraded = Identity(subject="ann", plan="enterprise", issued_at=rig.time)
    assert [entry.thread_id for entry in await rig.chat.threads_of(upgraded, None, 50)] == [thread]
    await rig.retention.purge_once()
    assert await rig.shown(upgraded, thread) == ["hello"]


async def test_members_see_by_the_owners_plan(rig: Rig) -> None:
    """A member on a better plan keeps nothing of another owner's thread."""
    who, guest = owner("free"), owner("enterprise", "bob")
    thread = (await rig.chat.create(who, "Talk")).thread_id
    await rig.say(who, thread, "hello")
    member = ThreadMember(user_id="bob", role="member", joined_at=BEGAN)
    await rig.store.threads.add_member(who.tenant, thread, member, limit=None)
    rig.time = BEGAN + 30 * DAY_S
    assert await rig.shown(guest, thread) == ["hello"]
    rig.time += 1
    assert await rig.chat.threads_of(guest, None, 50) == []


async def test_a_log_that_could_not_be_cut_is_cut_by_the_next_round(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows record the remaining cuts, also for a thread that its owner deleted."""
    who = owner("free")
    old = (await rig.chat.create(who, "Old")).thread_id
    await rig.say(who, old, "old")
    rig.time = BEGAN + 31 * DAY_S
    mine = (await rig.chat.create(who, "Mine")).thread_id
    await rig.say(who, mine, "mine")

    async def away(channel: str) -> None:
        raise DependencyError("broker", f"{channel} cannot be reached.", "Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(rig.broker, "remove", away)
        with pytest.raises(DependencyError):
            await rig.chat.delete(who, mine)
        with pytest.raises(DependencyError):
            await rig.retention.purge_once()
    assert await rig.store.threads.get("default", old) is None
    assert (await rig.logged(old), await rig.logged(mine)) == (3, 3)
    assert (await rig.retention.purge_once()).logs == 2
    assert (await rig.logged(old), await rig.logged(mine)) == (0, 0)
    assert await rig.store.threads.log_cuts(10) == []


async def test_one_log_that_cannot_be_cut_is_in_nobodys_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are cut in the same purge, which fails all the same; it is retried in the next one."""
    who = owner("free")
    threads = [(await rig.chat.create(who, "Talk")).thread_id for _ in range(3)]
    for thread in threads:
        await rig.say(who, thread, "hello")
    rig.time = BEGAN + 31 * DAY_S
    bad, remove = channel_key("default", f"thread:{threads[0]}"), rig.broker.remove

    async def refused(channel: str) -> None:
        if channel == bad:
            raise DependencyError("broker", "refused", "Look.")
        await remove(channel)

    with monkeypatch.context() as patch:
        patch.setattr(rig.broker, "remove", refused)
        for _ in range(2):
            with pytest.raises(DependencyError):
                await rig.retention.purge_once()
    assert [await rig.logged(thread) for thread in threads] == [3, 0, 0]
    assert (await rig.retention.purge_once()).logs == 1
    assert await rig.store.threads.log_cuts(10) == []


async def test_a_broker_that_is_away_is_not_asked_for_every_log(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call may take its whole time-out."""
    who = owner("free")
    for _ in range(20):
        await rig.chat.create(who, "Talk")
    rig.time = BEGAN + 31 * DAY_S
    asked = []

    async def away(channel: str) -> None:
        asked.append(channel)
        raise DependencyError("broker", "away", "Wait.")

    monkeypatch.setattr(rig.broker, "remove", away)
    with pytest.raises(DependencyError):
        await rig.retention.purge_once()
    assert len(asked) <= 5


async def test_the_task_goes_on_after_a_failure_and_tells(rig: Rig) -> None:
    """A failing purge is counted and logged; the next one does the rest."""
    who = owner("free")
    thread = (await rig.chat.create(who, "Talk")).thread_id
    rig.time = BEGAN + 31 * DAY_S
    failed, purged = asyncio.Event(), asyncio.Event()
    original = rig.store.threads.purge

    async def away(*_: object, **__: object) -> object:
        failed.set()
        raise RuntimeError("also a bug")

    rig.store.threads.purge = away  # type: ignore[method-assign,assignment] # a store that fails
    retention = rig.make(0.01)
    retention._on_round = lambda _: purged.set()
    await retention.start()
    await retention.start()  # twice is once
    async with asyncio.timeout(within(5)):
        await failed.wait()
        rig.store.threads.purge = original  # type: ignore[method-assign] # back again
        await purged.wait()
    await retention.stop()
    await retention.stop()
    assert await rig.store.threads.get("default", thread) is None
    assert rig.faults
    assert rig.meter.counts["history_purge_failures"] >= 1


@pytest.mark.parametrize("kind", ["threads", "messages", "runs", "logs", ""])
async def test_a_round_that_deleted_anything_is_reported(tmp_path: Path, kind: str) -> None:
    """Of any kind; one that deleted nothing is not."""
    rig = Rig(tmp_path)
    counts = {name: int(name == kind) for name in ("threads", "messages", "runs", "logs")}
    done = PurgeResult(**counts, duration_s=0.0)

    async def purged() -> PurgeResult:
        return done

    rig.retention.purge_once = purged  # type: ignore[method-assign]
    await rig.retention._purge()
    assert rig.rounds == ([done] if kind else [])
