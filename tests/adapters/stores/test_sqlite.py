"""What only the SQLite store has: ownership of the file, the command line beside a server, failing commits."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest

from narthex.adapters.stores.sql.runs import _CLAIMABLE, _leases
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.errors import Bug, ConfigError, DependencyError
from narthex.ports.credentials import SigningKey
from narthex.ports.store import AuditRecord
from narthex.ports.threads import Thread

RECORD = AuditRecord(at=1.0, kind="k", tenant="a", subject="s", detail="{}")


async def test_owned_by_one_process_and_usable_beside_it(tmp_path: Path) -> None:
    """A second server is refused; a command line beside it reads and writes the same rows."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    with pytest.raises(ConfigError, match="is held by pid"):
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
    """`readable_from` decides, so that one deploy back still runs."""
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
    """A row that must be new fails its own operation and nothing else in the commit."""
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


async def test_failed_commit_tells_everybody(tmp_path: Path) -> None:
    """While another program holds the lock for too long, writes are errors and reads go on."""
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


@pytest.mark.parametrize("statement", ["claim", "leases"])
async def test_what_is_asked_every_second_reads_no_ended_run(tmp_path: Path, statement: str) -> None:
    """Claims and looks at leases scan only indexes of active runs: they do not get slower with the history."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    await store.stop()
    sql, values = next(_leases()) if statement == "leases" else (_CLAIMABLE, ("node", 64))
    connection = sqlite3.connect(tmp_path / "store.db")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", tuple(values))]
    connection.close()
    scans = [line for line in plan if re.match(r"SCAN (runs|q)\b", line)]
    assert scans
    active = r"SCAN (runs|q) USING (COVERING )?INDEX runs_(queue|queued|running|owned|of_user)"
    assert [line for line in scans if not re.fullmatch(active, line)] == []
