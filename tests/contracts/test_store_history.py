"""The history limit, on every engine: hidden rows, deleted rows, batches, and the log cuts that remain to be done."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import msgspec

from narthex.adapters.stores.postgres import PostgresStore
from narthex.adapters.stores.sql.dialect import POSTGRES, SQLITE
from narthex.adapters.stores.sql.schema import MIGRATIONS, VERSION, migrate
from narthex.adapters.stores.sqlite import SqliteStore, _drive
from narthex.ports.broker import Position
from narthex.ports.runs import Interrupt
from narthex.ports.store import Store
from narthex.ports.threads import LogCut, OwnerPlan, Purged, ThreadMember
from tests.contracts.rigs import StoreRig
from tests.contracts.rows import message, run, thread
from tests.services import PostgresServer, database

KEPT = {
    "free": 100.0,
    "guest": 200.0,
}  # older rows are deleted; `enterprise` is missing here because it keeps all
NOW = 300.0  # long before the store's own clock
HELLO = 2


async def talk(store: Store, thread_id: str, *moments: float, plan: str = "free", by: str = "ann") -> None:
    """A thread of `by` with a message and a run that answers it, at each of these times."""
    at = moments[0]
    await store.threads.create(thread(thread_id, by=by, at=at), plan=plan)
    for number, moment in enumerate(moments):
        said = message(f"{thread_id}-m{number}", thread_id, at=moment, content=f"hello {thread_id} {number}")
        await store.threads.add_messages("a", [said])
        entry = msgspec.structs.replace(
            run(f"{thread_id}-r{number}", thread_id, at=moment, user=by),
            state="finished",
            finished_at=moment,
        )
        await store.runs.start(entry, queue_limit=100)


async def texts(store: Store, thread_id: str, kept: dict[str, float] | None = None) -> list[str]:
    """The texts of the thread's messages."""
    found = await store.threads.messages("a", thread_id, before=None, limit=200, kept=kept or {})
    return [entry.content for entry in found]


async def purge(store: Store, *, limit: int = 500) -> Purged:
    """Purge until nothing is left to delete."""
    total = Purged()
    while True:
        found = await store.threads.purge(KEPT, limit=limit, now=NOW)
        total = Purged(
            threads=total.threads + found.threads,
            messages=total.messages + found.messages,
            runs=total.runs + found.runs,
        )
        if not found.more:
            return total


class TestHiding:
    """Rows past their plan are absent from every read, whether or not they were deleted."""

    async def test_at_the_limit_and_past_it(self, store: Store) -> None:
        """A thread exactly at the limit is present; one an instant older looks as if it never existed."""
        await store.threads.create(thread("at", at=100.0), plan="free")
        await store.threads.create(thread("past", at=99.999), plan="free")
        threads = store.threads
        listed = await threads.list_for("a", "ann", before=None, limit=50, kept=KEPT)
        assert [entry.thread_id for entry in listed] == ["at"]
        assert await threads.get("a", "at", kept=KEPT) is not None
        assert await threads.get("a", "past", kept=KEPT) is None
        assert await threads.role("a", "at", "ann", kept=KEPT) == "owner"
        assert await threads.role("a", "past", "ann", kept=KEPT) is None
        assert await threads.role("a", "past", "ann") == "owner"

    async def test_it_is_the_owners_plan_that_counts(self, store: Store) -> None:
        """A guest's limit applies to a guest's thread; none to an owner whose plan keeps all or is not known."""
        for plan in ("free", "guest", "enterprise", "no-such-plan", ""):
            await store.threads.create(thread(f"t-{plan}", at=150.0), plan=plan)
            await store.threads.add_member(
                "a", f"t-{plan}", ThreadMember(user_id="bob", role="member", joined_at=150.0), limit=None
            )
        listed = await store.threads.list_for("a", "bob", before=None, limit=50, kept=KEPT)
        assert {entry.thread_id for entry in listed} == {"t-free", "t-enterprise", "t-no-such-plan", "t-"}

    async def test_older_messages_of_a_living_thread(self, store: Store) -> None:
        """Pages and search omit them."""
        await talk(store, "t1", 50.0, 99.999, 100.0, 150.0)
        assert await texts(store, "t1", KEPT) == ["hello t1 2", "hello t1 3"]
        assert len(await texts(store, "t1")) == 4
        hits = await store.threads.search("a", "ann", "hello", limit=50, kept=KEPT)
        assert {hit.message_id for hit in hits} == {"t1-m2", "t1-m3"}

    async def test_a_title_past_its_limit_is_not_found(self, store: Store) -> None:
        """Titles are history as well."""
        await store.threads.create(thread("old", at=99.0, title="Zebra"), plan="free")
        await store.threads.create(thread("new", at=100.0, title="Zebra"), plan="free")
        hits = await store.threads.search("a", "ann", "zebra", limit=50, kept=KEPT)
        assert [hit.thread_id for hit in hits] == ["new"]


class TestPlans:
    """Threads follow the plan of their creator."""

    async def test_a_later_word_stands(self, store: Store) -> None:
        """An upgrade applies to every thread of that user only; an older token does not revert it."""

        def plan(name: str, at: float, *, tenant: str = "a", user: str = "ann") -> OwnerPlan:
            return OwnerPlan(tenant=tenant, user_id=user, plan=name, at=at)

        for name in ("t1", "t2"):
            await store.threads.create(thread(name, at=50.0), plan="free", plan_at=10.0)
        await store.threads.create(thread("bobs", by="bob", at=50.0), plan="free", plan_at=10.0)
        assert await store.threads.get("a", "t1", kept=KEPT) is None
        assert await store.threads.note_plan(plan("enterprise", 20.0)) == 2
        assert await store.threads.note_plan(plan("enterprise", 30.0)) == 0
        assert await store.threads.note_plan(plan("free", 19.0)) == 0
        assert await store.threads.note_plan(plan("enterprise", 99.0, tenant="b", user="bob")) == 0
        assert await store.threads.get("a", "t1", kept=KEPT) is not None
        assert await store.threads.get("a", "bobs", kept=KEPT) is None
        assert await store.threads.note_plan(plan("free", 20.0)) == 2
        assert await store.threads.get("a", "t1", kept=KEPT) is None

    async def test_who_inherits_a_thread_decides_from_then_on(self, store: Store) -> None:
        """The plan of the last owner moves with the ownership: all is kept until the new plan is seen, however old the
        token.
        """
        await store.threads.create(thread("t1", at=50.0), plan="free", plan_at=10.0)
        heir = ThreadMember(user_id="bob", role="member", joined_at=50.0)
        await store.threads.add_member("a", "t1", heir, limit=None)
        bobs = OwnerPlan(tenant="a", user_id="bob", plan="guest", at=5.0)
        assert await store.threads.note_plan(bobs) == 0  # a member's plan does not matter
        assert (await store.threads.remove_member("a", "t1", "ann")).heir == "bob"
        assert await store.threads.get("a", "t1", kept=KEPT) is not None
        anns = OwnerPlan(tenant="a", user_id="ann", plan="free", at=20.0)
        assert await store.threads.note_plan(anns) == 0
        assert await store.threads.note_plan(bobs) == 1
        assert await store.threads.get("a", "t1", kept=KEPT) is None


class TestPurging:
    """Deleting in bounded batches."""

    async def test_at_the_limit_and_past_it(self, store: Store) -> None:
        """Whole threads, with everything in them; one instant decides."""
        await talk(store, "at", 99.0, 100.0)
        await talk(store, "past", 99.0, 99.999)
        await talk(store, "all", 1.0, plan="enterprise")
        await talk(store, "unknown", 1.0, plan="")
        assert await purge(store) == Purged(threads=1, messages=3, runs=3)
        assert await store.threads.get("a", "past") is None
        assert await store.threads.members("a", "past") == []
        assert await store.threads.search("a", "ann", "past", limit=50) == []
        assert await texts(store, "at") == ["hello at 1"]
        assert [entry.run_id for entry in await store.runs.list_in_thread("a", "at", 10)] == ["at-r1"]
        assert await texts(store, "all") == ["hello all 0"]
        assert await texts(store, "unknown") == ["hello unknown 0"]
        assert await purge(store) == Purged()

    async def test_what_is_left_to_do_in_the_logs(self, store: Store) -> None:
        """Each deletion records a cut in the same step; a done cut is removed, and a newer one stays."""
        await talk(store, "gone", 50.0)
        await talk(store, "cut", 50.0, 150.0)
        await store.threads.create(thread("deleted"))
        await store.threads.delete("a", "deleted")
        await purge(store)
        cuts = {cut.thread_id: cut for cut in await store.threads.log_cuts(50)}
        assert cuts == {
            "gone": LogCut(tenant="a", thread_id="gone", before=0.0),
            "cut": LogCut(tenant="a", thread_id="cut", before=100.0),
            "deleted": LogCut(tenant="a", thread_id="deleted", before=0.0),
        }
        await store.threads.log_cut_done(LogCut(tenant="a", thread_id="cut", before=99.0))
        for name in ("gone", "deleted"):
            await store.threads.log_cut_done(cuts[name])
        assert await store.threads.log_cuts(50) == [cuts["cut"]]

    async def test_a_new_thread_with_the_id_keeps_its_own_log(self, store: Store) -> None:
        """Clients choose ids: only what is older than the new thread is cut then."""
        await talk(store, "t1", 50.0)
        await purge(store)
        await store.threads.create(thread("t1", at=500.0), plan="free")
        assert await store.threads.log_cuts(50) == [LogCut(tenant="a", thread_id="t1", before=500.0)]

    async def test_batches_are_bounded(self, store: Store) -> None:
        """Never more rows than requested, however long a thread is; it is hidden meanwhile."""
        await store.threads.create(thread("long", at=1.0), plan="free")
        long = [message(f"m{number}", "long", at=1.0 + number / 1_000) for number in range(95)]
        await store.threads.add_messages("a", long)
        await talk(store, "short", 50.0)
        sizes = []
        while True:
            found = await store.threads.purge(KEPT, limit=20, now=NOW)
            sizes.append(found.messages + found.runs + found.threads)
            if not found.more:
                break
            assert await store.threads.get("a", "long", kept=KEPT) is None
        assert sum(sizes) == 95 + 1 + 3
        assert max(sizes) <= 20
        assert len(sizes) >= 5
        assert await store.threads.get("a", "long") is None

    async def test_a_thread_with_a_run_under_way_waits(self, store: Store) -> None:
        """It is deleted once the run has ended; it does not delay other threads."""
        await talk(store, "busy", 50.0)
        await store.runs.start(run("active", "busy", at=51.0), queue_limit=10)
        await talk(store, "idle", 60.0)
        assert (await purge(store)).threads == 1
        assert await store.threads.get("a", "busy") is not None
        await store.runs.request_cancel("a", "active", "ann", 70.0)
        assert (await purge(store)).threads == 1
        assert await store.threads.get("a", "busy") is None

    async def test_a_question_that_may_be_answered_stays(self, store: Store) -> None:
        """A run with an open approval is kept in a thread that continues; one with an expired approval is not."""
        await talk(store, "t1", 50.0, 60.0, 150.0)
        for number, expires_at in ((0, 49.0), (1, 110.0)):  # a second ago, and in a minute
            await store.runs.open_interrupt(
                Interrupt(
                    interrupt_id=f"i{number}",
                    run_id=f"t1-r{number}",
                    thread_id="t1",
                    tenant="a",
                    text="?",
                    schema="{}",
                    created_at=50.0,
                    expires_at=expires_at,
                )
            )
        await purge(store)
        assert await store.runs.get("a", "t1-r0") is None
        assert await store.runs.interrupt("a", "i0") is None
        assert await store.runs.get("a", "t1-r1") is not None
        assert await store.runs.interrupt("a", "i1") is not None

    async def test_a_clock_that_is_ahead_deletes_nothing(self, store: Store) -> None:
        """A day ahead of the store's clock: rows past the limit only by that clock stay."""
        now = time.time()
        await talk(store, "t1", now - 60.0, now - 30.0)
        ahead_s = 86_400.0
        kept = {"free": now + ahead_s - 3_600.0}
        assert await store.threads.purge(kept, limit=100, now=now + ahead_s) == Purged()
        assert (await store.threads.purge(kept, limit=100, now=now)).threads == 1

    async def test_instances_share_the_work(self, store: Store, store_rig: StoreRig) -> None:
        """Several at once: each row is deleted and counted once, and no call fails."""
        for number in range(30):
            await talk(store, f"t{number:02d}", 50.0)
        others = [store_rig.make() for _ in range(2)] if store_rig.shared else []
        for other in others:
            await other.start()
        totals = await asyncio.gather(*(purge(one, limit=10) for one in (store, *others, store)))
        for other in others:
            await other.stop()
        left = await purge(store)  # one may have skipped rows that another then rolled back
        assert sum(total.threads for total in (*totals, left)) == 30
        assert sum(total.messages for total in (*totals, left)) == 30
        assert len(await store.threads.log_cuts(50)) == 30

    async def test_the_text_index_agrees(self, tmp_path: Path) -> None:
        """After pruning, SQLite's own check of the external-content index passes."""
        store = SqliteStore(tmp_path / "store.db")
        await store.start()
        await talk(store, "t1", 50.0, 150.0)
        await talk(store, "t2", 50.0)
        await purge(store)
        await store.stop()
        connection = sqlite3.connect(tmp_path / "store.db")
        for table in ("threads_search", "messages_search"):
            connection.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
        connection.close()


# -- schema migrations ----------------------------------------------------------------------------------------

OLD_THREAD = (
    "INSERT INTO threads (thread_id, tenant, title, created_by, created_at, updated_at)"
    " VALUES (?, ?, ?, ?, ?, ?)"
)
OLD_MEMBER = (
    "INSERT INTO members (thread_id, user_id, tenant, role, joined_at, read_offset) VALUES (?, ?, ?, ?, ?, ?)"
)
OLD_INDEX = (
    "INSERT INTO threads_search (rowid, tenant, title) SELECT seq, tenant, title FROM threads"
    " WHERE thread_id LIKE ?"
)
OLD_REVOCATION = (
    'INSERT INTO revocations (kind, tenant, value, "at", "until", cut, reason) VALUES (?, ?, ?, ?, ?, ?, ?)'
)
OLD_USER = (
    "INSERT INTO users (user_id, tenant, email, name, plan, permissions, password_hash, created_at, blocked_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def old_rows(name: str) -> list[tuple[str, tuple[object, ...]]]:
    """Rows as a program of schema 1 writes them."""
    return [
        (OLD_THREAD, (f"{name}-known", "a", "Title", "ann", 50.0, 50.0)),
        (OLD_THREAD, (f"{name}-stranger", "a", "Title", "eve", 50.0, 50.0)),
        (OLD_MEMBER, (f"{name}-known", "ann", "a", "owner", 50.0, 0)),
        (OLD_MEMBER, (f"{name}-stranger", "eve", "a", "owner", 50.0, 0)),
        (OLD_REVOCATION, ("jti", "a", f"{name}-1", 1.0, 9e9, 0.0, "")),
        (OLD_REVOCATION, ("jti", "a", f"{name}-2", 1.0, 9e9, 0.0, "")),
    ]


USER = (OLD_USER, ("ann", "a", "ann@example.com", "Ann", "free", "[]", "", 1.0, 0.0))


async def one_version_back(store: Store) -> None:
    """The contract of a store whose rows `before` were migrated and `after` were written by the old program since."""
    # The provider's users are known by their account; others' threads are kept until their owner is seen.
    assert await store.threads.get("a", "before-known", kept=KEPT) is None
    assert await store.threads.get("a", "before-stranger", kept=KEPT) is not None
    assert await store.threads.get("a", "after-known", kept=KEPT) is not None
    assert (await purge(store)).threads == 1
    assert await store.threads.note_plan(OwnerPlan(tenant="a", user_id="eve", plan="free", at=1.0)) == 2
    assert (await purge(store)).threads == 2
    # Migrated revocations have positions; the old program's have none, and are read each time.
    first = await store.credentials.revocation_changes(0, 1)
    second = await store.credentials.revocation_changes(first.position, 10)
    values = {entry.value for entry in (*first.changed, *second.changed)}
    assert values == {"before-1", "before-2", "after-1", "after-2"}
    again = await store.credentials.revocation_changes(second.position, 10)
    assert {entry.value for entry in again.changed} == {"after-1", "after-2"}


async def test_sqlite_forward_and_beside_the_version_before(tmp_path: Path) -> None:
    """A file of schema 1 is migrated with its rows; the earlier program opens it again and writes rows that are
    understood.
    """
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {0x6E727473}")
    connection.execute("PRAGMA journal_mode = WAL")
    _drive(connection, migrate(SQLITE, "old", 1.0, version=1))
    for sql, values in (USER, *old_rows("before"), (OLD_INDEX, ("before-%",))):
        connection.execute(sql, values)
    assert _drive(connection, migrate(SQLITE, "new", 2.0, version=2)) == 2
    assert _drive(connection, migrate(SQLITE, "old", 2.0, version=1)) == 2  # not refused
    for sql, values in (*old_rows("after"), (OLD_INDEX, ("after-%",))):
        connection.execute(sql, values)
    connection.close()
    store = SqliteStore(path)
    await store.start()
    await one_version_back(store)
    await store.stop()


async def test_postgres_forward_and_beside_the_version_before(postgres_server: PostgresServer) -> None:
    """The same on PostgreSQL, where both versions run at once during a deploy."""
    async with database(postgres_server) as url:
        old = await asyncpg.connect(url)
        await _run(old, 1)
        for sql, values in (USER, *old_rows("before")):
            await old.execute(_numbered(sql), *values)
        assert await _run(old, 2) == 2
        assert await _run(old, 1) == 2
        for sql, values in old_rows("after"):
            await old.execute(_numbered(sql), *values)
        await old.close()
        store = PostgresStore(url)
        await store.start()
        await one_version_back(store)
        await store.stop()


OLD_MESSAGE = (
    "INSERT INTO messages (message_id, thread_id, tenant, role, author, content, created_at, run_id, detail,"
    ' "offset") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'
)
OLD_RUN = (
    "INSERT INTO runs (run_id, thread_id, tenant, user_id, agent, state, client_message_id, message_id, created_at,"
    " parent_run_id, concurrent_limit, identity, traffic, started_at, finished_at, start_offset, owner, lease_until,"
    ' attempt, restartable, cancel_requested_by, "count", digest, "text", error)'
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
OLD_RENEWAL = "UPDATE runs SET lease_until = lease_until + 5 WHERE run_id = ?"
THREAD_2 = (OLD_THREAD, ("t", "a", "Title", "ann", 1.0, 1.0))


def old_message(name: str, at: float) -> tuple[str, tuple[object, ...]]:
    """A message as a program of schema 2 writes it."""
    return OLD_MESSAGE, (name, "t", "a", "user", "ann", "hello", at, "", "{}", 0)


def old_run(name: str, at: float, state: str = "queued") -> tuple[str, tuple[object, ...]]:
    """A run as a program of schema 2 writes it."""
    owner = "old" if state == "running" else ""
    return OLD_RUN, (
        *(name, "t", "a", name, "bot", state, name, f"m-{name}", at, "", 1, "{}", "user", 0.0, 0.0, 0, owner),
        *(at, 1 if owner else 0, 0, "", 0, "", "", ""),
    )


async def beside_version_2(store: Store, write: Callable[[str, tuple[object, ...]], Awaitable[None]]) -> None:
    """The contract of a store in whose thread `t` a program of schema 2 wrote m0, m1, r0, r1, and continues to
    write.
    """
    await store.threads.post("a", message("m2", "t", at=0.5), Position(7, "e"))
    await write(*old_message("m3", 0.4))
    await store.threads.post("a", message("m4", "t", at=0.5), Position(12, "e"))
    read = await store.threads.messages("a", "t", before=None, limit=10)
    assert [entry.message_id for entry in read] == ["m0", "m1", "m2", "m3", "m4"]
    begun = msgspec.structs.replace(run("r2", "t", at=0.5), message_id="m2")
    await store.runs.start(begun, queue_limit=9)
    await write(*old_run("r3", 0.4))
    active = await store.runs.active_in_thread("a", "t")
    assert [entry.run_id for entry in active] == ["r0", "r1", "r2", "r3"]
    # The old program's lease moves, and its dead owner's does not.
    await write(*old_run("r4", 9.0, "running"))
    [seen] = [lease for lease in await store.runs.leases() if lease.run_id == "r4"]
    await write(OLD_RENEWAL, ("r4",))
    assert await store.runs.take_over("n1", [seen], 1.0, 5.0) == []
    [seen] = [lease for lease in await store.runs.leases() if lease.run_id == "r4"]
    [taken] = await store.runs.take_over("n1", [seen], 1.0, 5.0)
    assert (taken.attempt, taken.start_epoch) == (2, "")
    await deleted_by_version_2(store, write)


async def deleted_by_version_2(
    store: Store, write: Callable[[str, tuple[object, ...]], Awaitable[None]]
) -> None:
    """What a program of schema 2 leaves behind a run and a thread is neither given to the next one nor kept."""
    state = "INSERT INTO agent_states (thread_id, agent, tenant, state) VALUES (?, 'bot', 'a', '{}')"
    for name in ("gone", "anew", "kept"):
        await store.threads.create(thread(name))
        await store.runs.start(run(f"run-{name}", name), queue_limit=9, run_input="{}")
        await store.runs.start(run(f"ended-{name}", name, at=2.0), queue_limit=9, run_input="{}")
        await write("UPDATE runs SET state = 'finished' WHERE run_id = ?", (f"ended-{name}",))
        await write(state, (name,))
    for table in ("runs", "messages", "members", "threads"):
        for name in ("gone", "anew"):
            await write(f"DELETE FROM {table} WHERE thread_id = ?", (name,))
    assert await store.runs.given(run("run-gone", "gone")) == ("{}", "")
    await store.threads.create(thread("anew"))
    assert await store.runs.given(run("run-anew", "anew")) == ("", "")
    assert await store.runs.agent_states("a", "anew") == {}
    assert await store.runs.agent_states("a", "gone") == {"bot": "{}"}
    await store.threads.purge({}, limit=10, now=3.0)
    assert await store.runs.agent_states("a", "gone") == {}
    assert await store.runs.agent_states("a", "kept") == {"bot": "{}"}
    inputs = {name: (await store.runs.given(run(name, name[4:])))[0] for name in ("run-gone", "run-kept")}
    assert inputs == {"run-gone": "", "run-kept": "{}"}
    assert (await store.runs.given(run("ended-kept", "kept")))[0] == ""


OLD_ROWS_2 = (
    THREAD_2,
    old_message("m1", 9.0),
    old_message("m0", 8.0),
    old_run("r1", 9.0),
    old_run("r0", 8.0),
)


async def test_sqlite_beside_version_2(tmp_path: Path) -> None:
    """Order and leases of a file that a program of schema 2 wrote and writes again."""
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {0x6E727473}")
    connection.execute("PRAGMA journal_mode = WAL")
    _drive(connection, migrate(SQLITE, "old", 1.0, version=2))
    for sql, values in OLD_ROWS_2:
        connection.execute(sql, values)
    store = SqliteStore(path)
    await store.start()
    assert _drive(connection, migrate(SQLITE, "old", 2.0, version=2)) == VERSION  # not refused

    async def write(sql: str, values: tuple[object, ...]) -> None:
        connection.execute(sql, values)

    await beside_version_2(store, write)
    connection.close()
    await store.stop()


async def test_postgres_beside_version_2(postgres_server: PostgresServer) -> None:
    """The same on PostgreSQL, where both versions run at once during a deploy."""
    async with database(postgres_server) as url:
        old = await asyncpg.connect(url)
        await _run(old, 2)

        async def write(sql: str, values: tuple[object, ...]) -> None:
            await old.execute(_numbered(sql), *values)

        for sql, values in OLD_ROWS_2:
            await write(sql, values)
        store = PostgresStore(url)
        await store.start()
        assert await _run(old, 2) == VERSION
        await beside_version_2(store, write)
        await old.close()
        await store.stop()


async def _run(connection: asyncpg.Connection, version: int) -> int:
    from narthex.adapters.stores.postgres import _drive as drive

    async with connection.transaction():
        return await drive(connection, migrate(POSTGRES, "old", 1.0, version=version))


def _numbered(sql: str) -> str:
    from narthex.adapters.stores.postgres import _numbered as numbered

    return numbered(sql)


def test_every_migration_is_readable_one_version_back() -> None:
    """The schema's rules; versions 3 and 4 were published in one release."""
    assert {migration.version: migration.readable_from for migration in MIGRATIONS} == {
        1: 1,
        2: 1,
        3: 2,
        4: 2,
        5: 2,
        6: 2,
        7: 2,
    }
    assert MIGRATIONS[-1].version == VERSION
