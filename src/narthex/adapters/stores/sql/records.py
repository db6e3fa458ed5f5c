"""Audit records, results of test runs and status samples in SQL. See `ports/store.py`."""

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
        where, values = ("", ()) if kind is None else (" WHERE kind = ?", (kind,))
        return _AUDIT.many(f"FROM audits{where} ORDER BY seq DESC LIMIT ?", *values, _bounded(limit))

    @writes
    def add_result(self, result: TestRunResult) -> Operation[None]:
        """See the port."""
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in _RESULT.names if name != "test_run")
        upsert = f"{_RESULT.into('results')} ON CONFLICT (test_run) DO UPDATE SET {changes}"
        yield upsert, _RESULT.values(result)
        # Each call adds one result and removes several beyond the bound, which keeps it; the limit keeps a call short.
        yield (
            """DELETE FROM results WHERE test_run IN
            (SELECT test_run FROM results ORDER BY "at" DESC, test_run LIMIT 100 OFFSET ?)""",
            (KEPT_RESULTS,),
        )

    @reads
    def results(self, limit: int) -> Operation[list[TestRunResult]]:
        """See the port; at most `MAX_RECORDS`."""
        return _RESULT.many('FROM results ORDER BY "at" DESC, test_run LIMIT ?', _bounded(limit))

    async def add_samples(self, samples: list[Sample]) -> None:
        """See the port."""
        if samples:
            await self._engine.write(_append("samples", _SAMPLE, samples))

    @reads
    def samples(self, component: str | None, since: float, limit: int) -> Operation[list[Sample]]:
        """See the port; at most `MAX_RECORDS`, those from `since` on."""
        where, values = ("", ()) if component is None else (" AND component = ?", (component,))
        rest = f'FROM samples WHERE "at" >= ?{where} ORDER BY "at", seq LIMIT ?'
        return _SAMPLE.many(rest, since, *values, _bounded(limit))


def ping(value: str) -> Operation[str]:
    """Write `value` and read it back."""
    insert = "INSERT INTO pings (name, value) VALUES ('ping', ?)"
    yield f"{insert} ON CONFLICT (name) DO UPDATE SET value = excluded.value", (value,)
    rows = yield "SELECT value FROM pings WHERE name = 'ping'", ()
    return str(rows[0][0])


def _append(table: str, shape: Shape[S], records: list[S]) -> Operation[None]:
    for record in records:
        yield shape.into(table), shape.values(record)


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_RECORDS))
