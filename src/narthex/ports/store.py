"""The interface of the store as a whole: one engine behind the narrow ports, and small records (audits, results).

Guarantees: `start` migrates the schema (the previous version of narthex can still read it); every write is durable
when it returns, as far as `durability` says; every failure raises `DependencyError("store", …)`.

Faults that the engine below may show, which callers must handle (tests/simulation/store.py simulates them): it may
be slow, hang, or be cut off from a node in either direction (a write that raised may have been made all the same, also
later), and go back in time, when an operator restores a copy or a lagging standby takes over.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from narthex.ports.credentials import Credentials
from narthex.ports.history import History
from narthex.ports.memberships import Memberships
from narthex.ports.runs import Runs
from narthex.ports.threads import Threads

KEPT_RESULTS: Final = 500
"""Results of end-to-end runs: three weeks of one an hour. A report has at most 256 KB (web/api), so at most 128 MB."""


KEPT_BASELINES: Final = 500
"""Performance measurements: more than a year of one a day, at most 10 KB each."""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event that must be provable later: `kind` such as `e2e_admission`, `revocation`, `incident`."""

    at: float
    kind: str
    tenant: str
    subject: str
    detail: str  # JSON text; never a secret
    trace_id: str = ""


GATE_RESULT: Final = "gate"
"""The member `kind` of the report of `narthex gate --post`, whose checks are no end-to-end tests."""


class TestRunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The report of an end-to-end run: counts, and the environment it ran against. `report` is JSON text."""

    __test__ = False  # pytest: this is no test class

    test_run: str
    at: float
    environment: str
    passed: int
    failed: int
    skipped: int
    duration_s: float
    report: str = "{}"


class BaselineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one performance measurement (`narthex bench --post`). `figures` is JSON text: name → number."""

    at: float
    kind: str
    version: str
    machine: str
    figures: str


class Records(Protocol):
    """Append-only records."""

    async def audit(self, record: AuditRecord) -> None:
        """Append."""

    async def audits(self, kind: str | None, limit: int) -> list[AuditRecord]:
        """Newest first."""

    async def add_result(self, result: TestRunResult) -> None:
        """Append, or replace the same test run's. The newest `KEPT_RESULTS` are kept."""

    async def results(self, limit: int) -> list[TestRunResult]:
        """Newest first."""

    async def add_baseline(self, baseline: BaselineRecord) -> None:
        """Append. The newest `KEPT_BASELINES` are kept."""

    async def baselines(self, limit: int) -> list[BaselineRecord]:
        """Newest first."""


class Store(Protocol):
    """One engine behind the narrow ports."""

    durability: str
    threads: Threads
    memberships: Memberships
    runs: Runs
    credentials: Credentials
    records: Records
    history: History

    async def start(self) -> None:
        """Open and migrate. Raises DependencyError when the engine is unreachable, ConfigError for a newer schema."""

    async def stop(self) -> None:
        """Finish the accepted writes, then close."""

    async def ping(self) -> None:
        """A full round trip: write a row and read it back. Raises DependencyError."""
