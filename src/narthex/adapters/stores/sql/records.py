"""Audit records, results of test runs and status samples in SQL. See `ports/store.py`."""
# ruff: noqa: S608 - statements are put together from constants and column names only; values are parameters

from __future__ import annotations

from typing import Final

from narthex.adapters.stores.sql.operation import Adapter, Operation, S, Shape, reads, writes
from narthex.ports.store import KEPT_RESULTS, AuditRecord, Sample, TestRunResult

MAX_RECORDS: Final = 10_000  # per answer: callers read 90 days of one component's samples in pages

_AUDIT: Final = Shape(AuditRecord)
_RESULT: Final = Shape(TestRunResult)
_SAMPLE: Final = Shape(Sample)


class SqlRecords(Adapter):
    """The Records port over an engine."""

    @writes
    def audit(self, record: AuditRecord) -> Operation[None]:
        """See the port."""
        return _append("audits", _AUDIT, [record])

    @reads
    def audits(self, kind: str | None, limit: int) -> Operation[list[AuditRecord]]:
        """See the port; at most `MAX_RECORDS`."""
        where = "" if kind is None else " WHERE kind = ?"
        rows = yield (
            f"SELECT {_AUDIT.columns} FROM audits{where} ORDER BY seq DESC LIMIT ?",
            (*(() if kind is None else (kind,)), _bounded(limit)),
        )
        return _AUDIT.read_all(rows)

    @writes
    def add_result(self, result: TestRunResult) -> Operation[None]:
        """See the port."""
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in _RESULT.names if name != "test_run")
        yield (
            (
                f"INSERT INTO results ({_RESULT.columns}) VALUES ({_RESULT.placeholders}) ON CONFLICT (test_run)"
                f" DO UPDATE SET {changes}"
            ),
            _RESULT.values(result),
        )
        # Each call adds one result and removes several beyond the bound, which keeps it; the limit keeps a call short.
        yield (
            (
                'DELETE FROM results WHERE test_run IN (SELECT test_run FROM results ORDER BY "at" DESC, test_run'
                " LIMIT 100 OFFSET ?)"
            ),
            (KEPT_RESULTS,),
        )

    @reads
    def results(self, limit: int) -> Operation[list[TestRunResult]]:
        """See the port; at most `MAX_RECORDS`."""
        rows = yield (
            f'SELECT {_RESULT.columns} FROM results ORDER BY "at" DESC, test_run LIMIT ?',
            (_bounded(limit),),
        )
        return _RESULT.read_all(rows)

    async def add_samples(self, samples: list[Sample]) -> None:
        """See the port."""
        if samples:
            await self._engine.write(_append("samples", _SAMPLE, samples))

    @reads
    def samples(self, component: str | None, since: float, limit: int) -> Operation[list[Sample]]:
        """See the port; at most `MAX_RECORDS`, those from `since` on."""
        where = "" if component is None else " AND component = ?"
        rows = yield (
            f'SELECT {_SAMPLE.columns} FROM samples WHERE "at" >= ?{where} ORDER BY "at", seq LIMIT ?',
            (since, *(() if component is None else (component,)), _bounded(limit)),
        )
        return _SAMPLE.read_all(rows)


def ping(value: str) -> Operation[str]:
    """Write `value` and read it back."""
    yield (
        (
            "INSERT INTO pings (name, value) VALUES ('ping', ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ),
        (value,),
    )
    rows = yield "SELECT value FROM pings WHERE name = 'ping'", ()
    return str(rows[0][0])


def _append(table: str, shape: Shape[S], records: list[S]) -> Operation[None]:
    for record in records:
        yield f"INSERT INTO {table} ({shape.columns}) VALUES ({shape.placeholders})", shape.values(record)


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_RECORDS))
