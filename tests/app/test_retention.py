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


class House:
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
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.store.start()
    await house.broker.start(house.handler, "node")
    yield house
    await house.broker.stop()
    await house.store.stop()


@pytest.mark.parametrize("plan", LIMITED, ids=lambda plan: plan.name)
async def test_at_n_days_all_is_there_and_past_them_nothing(house: House, plan: object) -> None:
    """By plan: hidden to the second, deleted with its log by the next purge."""
    assert isinstance(plan, type(LIMITED[0]))
    assert plan.history_days is not None
    who = owner(plan.name)
    thread = (await house.chat.create(who, "Talk")).thread_id
    await house.say(who, thread, "hello")

    house.time = BEGAN + plan.history_days * DAY_S
    assert await house.shown(who, thread) == ["hello"]
    assert [entry.thread_id for entry in await house.chat.threads_of(who, None, 50)] == [thread]
    assert len(await house.chat.search(who, "hello", 10)) == 1
    assert (await house.retention.purge_once()).threads == 0

    house.time += 1
    assert await house.chat.threads_of(who, None, 50) == []
    assert await house.chat.search(who, "hello", 10) == []
    for ask in (
        house.chat.view(who, thread, None, 10),
        house.chat.rename(who, thread, "x"),
        house.chat.export(who, thread),
        house.chat.delete(who, thread),
        house.chat.mark_read(who, thread, 1),
        house.chat.typing(who, thread),
        house.links.make(who, thread, 7),
        house.links.of_thread(who, thread),
        house.links.revoke(who, thread),
    ):
        with pytest.raises(ClientError) as caught:
            await ask
        assert caught.value.code == "thread_not_found"
    assert await house.store.threads.get("default", thread) is not None  # hidden, but still stored
    assert await house.logged(thread) == 3

    done = await house.retention.purge_once()
    assert (done.threads, done.messages, done.logs) == (1, 1, 1)
    assert await house.store.threads.get("default", thread) is None
    assert await house.logged(thread) == 0
    assert house.handler.controls[-1].kind == "unsubscribe"
    assert house.meter.counts["history_purged"] == 2
    assert (await house.retention.purge_once()).logs == 0


@pytest.mark.parametrize("plan", [plan.name for plan in PLANS.values() if plan.history_days is None])
async def test_a_plan_without_end_keeps_all(house: House, plan: str) -> None:
    """For ever."""
    who = owner(plan)
    thread = (await house.chat.create(who, "Talk")).thread_id
    await house.say(who, thread, "hello")
    house.time = BEGAN + 10_000 * DAY_S
    await house.retention.purge_once()
    assert await house.shown(who, thread) == ["hello"]


async def test_a_thread_that_goes_on_loses_its_older_part(house: House) -> None:
    """Rows and log; later ones keep their offsets, so that clients can continue."""
    who = owner("free")
    thread = (await house.chat.create(who, "Talk")).thread_id
    for day in range(40):
        house.time = BEGAN + day * DAY_S
        await house.say(who, thread, f"day-{day}")
    house.time = BEGAN + 39 * DAY_S + 1
    expected = [f"day-{day}" for day in range(10, 40)]
    assert await house.shown(who, thread) == expected
    done = await house.retention.purge_once()
    assert (done.threads, done.messages, done.logs) == (0, 10, 1)
    assert await house.shown(who, thread) == expected
    key = channel_key("default", f"thread:{thread}")
    page = await house.broker.history(key)
    assert page.publications[0].offset == 31  # ten messages of three events are gone
    assert page.top.offset == 120
    assert all(entry.at >= BEGAN + 9 * DAY_S for entry in page.publications)
    assert (await house.broker.history(key, since=Position(60, page.top.epoch))).complete


async def test_an_id_that_is_past_its_limit_is_free_for_its_owner(house: House) -> None:
    """A client that always uses one id (AG-UI) starts again without waiting for a purge; other users cannot take it."""
    who = owner("free")
    thread = (await house.chat.create(who, "Talk", "main")).thread_id
    await house.say(who, thread, "old")
    house.time = BEGAN + 31 * DAY_S
    with pytest.raises(ClientError):
        await house.chat.create(owner("free", "bob"), "Mine", "main")
    again = await house.chat.create(who, "Anew", "main")
    assert again.created_at == house.time
    assert await house.shown(who, "main") == []
    assert await house.logged("main") == 0
    await house.say(who, "main", "new")
    assert (await house.retention.purge_once()).logs == 0
    assert await house.shown(who, "main") == ["new"]
    assert (await house.chat.create(who, "Once more", "main")).title == "Anew"


async def test_an_upgrade_counts_before_anything_is_hidden_or_deleted(house: House) -> None:
    """The first action of an upgraded user shows their old threads; the purge then keeps them."""
    who = owner("free")
    thread = (await house.chat.create(who, "Talk")).thread_id
    await house.say(who, thread, "hello")
    house.time = BEGAN + 31 * DAY_S
    upgraded = Identity(subject="ann", plan="enterprise", issued_at=house.time)
    assert [entry.thread_id for entry in await house.chat.threads_of(upgraded, None, 50)] == [thread]
    await house.retention.purge_once()
    assert await house.shown(upgraded, thread) == ["hello"]


async def test_members_see_by_the_owners_plan(house: House) -> None:
    """A member on a better plan keeps nothing of another owner's thread."""
    who, guest = owner("free"), owner("enterprise", "bob")
    thread = (await house.chat.create(who, "Talk")).thread_id
    await house.say(who, thread, "hello")
    member = ThreadMember(user_id="bob", role="member", joined_at=BEGAN)
    await house.store.threads.add_member(who.tenant, thread, member, limit=None)
    house.time = BEGAN + 30 * DAY_S
    assert await house.shown(guest, thread) == ["hello"]
    house.time += 1
    assert await house.chat.threads_of(guest, None, 50) == []


async def test_a_log_that_could_not_be_cut_is_cut_by_the_next_round(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows record the remaining cuts, also for a thread that its owner deleted."""
    who = owner("free")
    old = (await house.chat.create(who, "Old")).thread_id
    await house.say(who, old, "old")
    house.time = BEGAN + 31 * DAY_S
    mine = (await house.chat.create(who, "Mine")).thread_id
    await house.say(who, mine, "mine")

    async def away(channel: str) -> None:
        raise DependencyError("broker", f"{channel} cannot be reached.", "Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(house.broker, "remove", away)
        with pytest.raises(DependencyError):
            await house.chat.delete(who, mine)
        with pytest.raises(DependencyError):
            await house.retention.purge_once()
    assert await house.store.threads.get("default", old) is None
    assert (await house.logged(old), await house.logged(mine)) == (3, 3)
    assert (await house.retention.purge_once()).logs == 2
    assert (await house.logged(old), await house.logged(mine)) == (0, 0)
    assert await house.store.threads.log_cuts(10) == []


async def test_one_log_that_cannot_be_cut_is_in_nobodys_way(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are cut in the same purge, which fails all the same; it is retried in the next one."""
    who = owner("free")
    threads = [(await house.chat.create(who, "Talk")).thread_id for _ in range(3)]
    for thread in threads:
        await house.say(who, thread, "hello")
    house.time = BEGAN + 31 * DAY_S
    bad, remove = channel_key("default", f"thread:{threads[0]}"), house.broker.remove

    async def refused(channel: str) -> None:
        if channel == bad:
            raise DependencyError("broker", "refused", "Look.")
        await remove(channel)

    with monkeypatch.context() as patch:
        patch.setattr(house.broker, "remove", refused)
        for _ in range(2):
            with pytest.raises(DependencyError):
                await house.retention.purge_once()
    assert [await house.logged(thread) for thread in threads] == [3, 0, 0]
    assert (await house.retention.purge_once()).logs == 1
    assert await house.store.threads.log_cuts(10) == []


async def test_a_broker_that_is_away_is_not_asked_for_every_log(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call may take its whole time-out."""
    who = owner("free")
    for _ in range(20):
        await house.chat.create(who, "Talk")
    house.time = BEGAN + 31 * DAY_S
    asked = []

    async def away(channel: str) -> None:
        asked.append(channel)
        raise DependencyError("broker", "away", "Wait.")

    monkeypatch.setattr(house.broker, "remove", away)
    with pytest.raises(DependencyError):
        await house.retention.purge_once()
    assert len(asked) <= 5


async def test_the_task_goes_on_after_a_failure_and_tells(house: House) -> None:
    """A failing purge is counted and logged; the next one does the rest."""
    who = owner("free")
    thread = (await house.chat.create(who, "Talk")).thread_id
    house.time = BEGAN + 31 * DAY_S
    failed, purged = asyncio.Event(), asyncio.Event()
    original = house.store.threads.purge

    async def away(*_: object, **__: object) -> object:
        failed.set()
        raise RuntimeError("also a bug")

    house.store.threads.purge = away  # type: ignore[method-assign,assignment] # a store that fails
    retention = house.make(0.01)
    retention._on_round = lambda _: purged.set()
    await retention.start()
    await retention.start()  # twice is once
    async with asyncio.timeout(within(5)):
        await failed.wait()
        house.store.threads.purge = original  # type: ignore[method-assign] # back again
        await purged.wait()
    await retention.stop()
    await retention.stop()
    assert await house.store.threads.get("default", thread) is None
    assert house.faults
    assert house.meter.counts["history_purge_failures"] >= 1
