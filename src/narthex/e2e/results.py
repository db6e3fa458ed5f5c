"""The results of a run of the suite, as values. Not here: running (`runner`), rendering (`reports`)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from narthex.e2e.scenario import Scenario


class Status(StrEnum):
    """How a scenario ended. A skip that is not allowed is `failed`; `not_run` names its cause in `detail`."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_RUN = "not_run"


class Result(msgspec.Struct, kw_only=True):
    """The result of one scenario.

    Attributes:
        detail: the failure, or the reason why it was skipped or not run; holds no proof.
        sent: bytes to the system under test.
        received: bytes from it.
        contacted: the peers that answered, as scheme, host and port.
    """

    name: str
    category: str
    group: str
    title: str
    status: Status
    detail: str = ""
    duration_s: float = 0.0
    sent: int = 0
    received: int = 0
    contacted: list[str] = []
    incident: bool = False
    negative: bool = False


def result_of(scenario: Scenario, status: Status, detail: str = "") -> Result:
    """A result with the scenario's own facts."""
    return Result(
        name=scenario.name,
        category=str(scenario.category),
        group=scenario.group,
        title=scenario.title,
        status=status,
        detail=detail,
        incident=scenario.incident,
        negative=scenario.always,
    )


class SuiteReport(msgspec.Struct, kw_only=True):
    """The report of a whole run.

    Attributes:
        target: `deployed system`, `local staging`, `local gateway` or `no server`.
        base_url: the target's URL.
        engines: of a local target.
        versions: of the server, from its health, and of the runner.
        health: the server's `e2e_testing` and status in its health when the run began.
        proof: the kind of the runner's proof, never its value.
        started_at: ISO 8601, UTC.
        posted: the outcome of `POST /api/v1/e2e/results`, in words.
        left_behind: threads of this run that could not be deleted.
    """

    environment: str
    target: str
    base_url: str = ""
    engines: dict[str, str] = {}
    versions: dict[str, str] = {}
    health: dict[str, Any] = {}
    proof: str = "none"
    test_run: str = ""
    started_at: str = ""
    duration_s: float = 0.0
    posted: str = ""
    left_behind: list[str] = []
    results: list[Result] = []

    def count(self, status: Status) -> int:
        """The number of results with this status."""
        return sum(result.status == status for result in self.results)

    @property
    def good(self) -> bool:
        """Whether every selected scenario passed or had an allowed skip; at least one must have passed."""
        return self.count(Status.PASSED) > 0 and all(
            result.status in (Status.PASSED, Status.SKIPPED) for result in self.results
        )

    @property
    def success_rate(self) -> float:
        """Passed ÷ (passed + failed + not run), 0 to 1; 0 when nothing ran."""
        counted = len(self.results) - self.count(Status.SKIPPED)
        return self.count(Status.PASSED) / counted if counted else 0.0

    @property
    def contacted(self) -> list[str]:
        """All peers that answered."""
        return sorted({peer for result in self.results for peer in result.contacted})

    @property
    def received(self) -> int:
        """Bytes from the system under test."""
        return sum(result.received for result in self.results)

    @property
    def sent(self) -> int:
        """Bytes to the system under test."""
        return sum(result.sent for result in self.results)
