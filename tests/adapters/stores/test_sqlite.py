"""Features of the SQLite store alone: ownership of the file, the command line beside a server, failing commits."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from narthex.adapters.stores import sqlite as sqlite_store
from narthex.adapters.stores.sql.operation import Operation, Shape
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.errors import Bug, ConfigError, DependencyError
from narthex.ports.credentials import SigningKey
from narthex.ports.runs import Run
from narthex.ports.store import AuditRecord
from narthex.ports.threads import Thread

RECORD = AuditRecord(at=1.0, kind="k", tenant="a", subject="s", detail="{}")


async def test_owned_by_one_process_and_usable_beside_it(tmp_path: Path) -> None:
    """A second server is refused; a command line beside it reads and writes the same rows."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    with pytest.raises(ConfigError, match="is in use by pid"):
        await SqliteStore(tmp_path / "store.db").start()
    beside = SqliteStore(tmp_path / "store.db", beside=True)
    await beside.start()
    key = SigningKey(
        kid="k1", purpose="provider", algorithm="ES256", jwk="{}", created_at=1.0, not_before=1.0
    )
    await asyncio.gather(
        beside.credentials.add_key(key),
        *(store.records.audit(RECORD) for _ in range(50)),
        *(beside.records.audit(RECORD) for _ in range(50)),
    )
    assert await store.credentials.keys("provider") == [key]
    await beside.stop()
    assert len(await store.records.audits("k", 1_000)) == 100
    await store.stop()


async def test_newer_schema_is_refused_unless_it_is_readable(tmp_path: Path) -> None:
    """`readable_from` decides, so that the previous release still runs."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    await store.stop()
    connection = sqlite3.connect(tmp_path / "store.db")
    with connection:
        connection.execute("INSERT INTO schema_versions VALUES (98, 1, 0)")
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    await store.ping()
    await store.stop()
    with connection:
        connection.execute("INSERT INTO schema_versions VALUES (99, 98, 0)")
    connection.close()
    with pytest.raises(ConfigError, match="schema 99"):
        await SqliteStore(tmp_path / "store.db").start()


async def test_conflict_is_a_bug_of_one_operation(tmp_path: Path) -> None:
    """A row that must be new fails only its own operation in the commit."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    outcomes = await asyncio.gather(
        store.credentials.put_ticket("h", "{}", 1.0),
        store.credentials.put_ticket("h", "{}", 1.0),
        store.records.audit(RECORD),
        return_exceptions=True,
    )
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Bug)
    assert outcomes[2] is None
    assert len(await store.records.audits(None, 10)) == 1
    await store.stop()


async def test_a_bug_in_one_operation_is_its_own(tmp_path: Path) -> None:
    """It is rolled back; writes of the same batch are stored, and the store continues."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    new = Thread(thread_id="t1", tenant="a", title="T", created_by="ann", created_at=1.0, updated_at=1.0)
    await store.threads.create(new)

    def broken() -> Operation[None]:
        yield "UPDATE threads SET title = 'half'", ()
        raise ZeroDivisionError

    engine = vars(store.records)["_engine"]
    audits = [store.records.audit(RECORD) for _ in range(3)]
    outcomes = await asyncio.gather(*audits[:2], engine.write(broken()), audits[2], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), ZeroDivisionError, type(None)]
    assert [record.kind for record in await store.records.audits(None, 10)] == ["k"] * 3
    found = await store.threads.get("a", "t1")
    assert found is not None
    assert found.title == "T"
    await store.stop()


async def test_failed_commit_tells_everybody(tmp_path: Path) -> None:
    """While another program holds the lock for too long, writes are errors and reads continue."""
    store = SqliteStore(tmp_path / "store.db", timeout_s=0.2)
    await store.start()
    await store.records.audit(RECORD)
    blocker = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyError, match="did not answer"):
        await store.records.audit(RECORD)
    assert len(await store.records.audits(None, 10)) == 1
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.records.audit(RECORD)
    await store.stop()


async def test_text_index_survives_a_restart_and_agrees(tmp_path: Path) -> None:
    """After deletes and renames the external-content index still passes SQLite's own check."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    for number in range(10):
        await store.threads.create(
            Thread(
                thread_id=f"t{number}",
                tenant="a",
                title=f"Title {number}",
                created_by="u",
                created_at=1.0,
                updated_at=1.0,
            )
        )
    for number in range(0, 10, 2):
        await store.threads.rename("a", f"t{number}", "Other name", 2.0)
    for number in range(0, 10, 3):
        await store.threads.delete("a", f"t{number}")
    await store.stop()
    connection = sqlite3.connect(tmp_path / "store.db")
    for table in ("threads_search", "messages_search"):
        connection.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
    connection.close()


async def test_what_is_asked_all_day_reads_no_ended_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, leases, queues and quotas read only indexes of active runs: history does not slow them down."""
    asked: dict[str, Sequence[object]] = {}

    def recorded(sql: sqlite3.Connection, operation: Operation[object]) -> object:
        try:
            statement = next(operation)
            while True:
                asked[statement[0]] = statement[1]
                statement = operation.send(sql.execute(*statement).fetchall())
        except StopIteration as stop:
            return stop.value

    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    await store.threads.create(
        Thread(thread_id="t", tenant="a", title="", created_by="u", created_at=1.0, updated_at=1.0)
    )
    monkeypatch.setattr(sqlite_store, "_drive", recorded)
    for number in (1, 2):
        run = Run(
            run_id=f"r{number}",
            thread_id="t",
            tenant="a",
            user_id="u",
            agent="g",
            state="queued",
            client_message_id=f"c{number}",
            message_id=f"m{number}",
            created_at=1.0,
        )
        await store.runs.start(run, queue_limit=9)
    assert [run.run_id for run in await store.runs.claim("n", 1.0, 9.0, 64, ("g",))] == ["r1"]
    assert [lease.run_id for lease in await store.runs.leases()] == ["r1"]
    assert await store.runs.queue_position("a", "r2") == 0
    assert await store.runs.renew("n", 1.0, 9.0, ["r1"]) == ["r1"]
    assert await store.runs.cancel_requests("n") == []
    assert await store.runs.unclosed(9) == []
    assert [run.run_id for run in await store.runs.active_in_thread("a", "t")] == ["r1", "r2"]
    assert await store.runs.active_count("a", "u") == 2
    await store.stop()
    connection = sqlite3.connect(tmp_path / "store.db")
    whole = {"runs_by_thread", "runs_by_place", "sqlite_autoindex_runs_2"}  # of ended runs as well
    wrong: list[tuple[str, str]] = []
    for sql, values in asked.items():
        for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", tuple(values)):
            used = re.match(r"(SCAN|SEARCH) (?:runs|q|r)\b(?: USING (?:COVERING )?INDEX (\w+))?(.*)", row[3])
            if (
                used is None
                or "client_message_id=?" in used[3]
                or sql.startswith("SELECT coalesce(max(queue_place)")
            ):
                continue  # one row, whatever there is
            if used[2] in whole or (used[2] is None and used[1] == "SCAN"):
                wrong.append((row[3], sql))
    connection.close()
    assert len(asked) > 10
    assert wrong == []


@pytest.mark.parametrize("alias", ["", "o"])
def test_a_bounded_text_is_read_as_empty_with_and_without_an_alias(alias: str) -> None:
    """A query over one table names no alias, and must not read a text of any length for that."""

    class Pair(msgspec.Struct):
        name: str
        text: str

    shape = Shape(Pair, bounded=("text",), most=3)
    with contextlib.closing(sqlite3.connect(":memory:")) as sql:
        sql.execute("CREATE TABLE pairs (name TEXT, text TEXT)")
        sql.executemany("INSERT INTO pairs VALUES (?, ?)", [("whole", "abc"), ("long", "abcd")])
        query = shape.many(f"FROM pairs {alias} ORDER BY rowid", alias=alias)
        statement, values = next(query)
        with pytest.raises(StopIteration) as found:
            query.send(sql.execute(statement, values).fetchall())
    assert found.value.value == [Pair("whole", "abc"), Pair("long", "")]
