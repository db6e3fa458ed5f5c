"""Audit records and results of test runs in SQL. See `ports/store.py`."""

from __future__ import annotations

from typing import Final

from narthex.adapters.stores.sql.operation import Adapter, Operation, Shape, reads, writes
from narthex.ports.store import KEPT_BASELINES, KEPT_RESULTS, AuditRecord, BaselineRecord, TestRunResult

MAX_RECORDS: Final = 10_000  # per answer

_AUDIT: Final = Shape(AuditRecord)
_RESULT: Final = Shape(TestRunResult)
_BASELINE: Final = Shape(BaselineRecord)


class SqlRecords(Adapter):
    """The Records port over an engine."""

    @writes
    def audit(self, record: AuditRecord) -> Operation[None]:
        """See the port."""
        yield _AUDIT.into("audits"), _AUDIT.values(record)

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

    @writes
    def add_baseline(self, baseline: BaselineRecord) -> Operation[None]:
        """See the port."""
        yield _BASELINE.into("baselines"), _BASELINE.values(baseline)
        yield (
            """DELETE FROM baselines WHERE seq IN
            (SELECT seq FROM baselines ORDER BY seq DESC LIMIT 100 OFFSET ?)""",
            (KEPT_BASELINES,),
        )

    @reads
    def baselines(self, limit: int) -> Operation[list[BaselineRecord]]:
        """See the port; at most `MAX_RECORDS`."""
        return _BASELINE.many("FROM baselines ORDER BY seq DESC LIMIT ?", _bounded(limit))


def ping(value: str) -> Operation[str]:
    """Write `value` and read it back."""
    insert = "INSERT INTO pings (name, value) VALUES ('ping', ?)"
    yield f"{insert} ON CONFLICT (name) DO UPDATE SET value = excluded.value", (value,)
    rows = yield "SELECT value FROM pings WHERE name = 'ping'", ()
    return str(rows[0][0])


def _bounded(limit: int) -> int:
    return max(0, min(limit, MAX_RECORDS))
