"""What a run of the suite came to, as values. Not here: running (`runner`), writing them down (`reports`)."""

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
    """One scenario's.

    Attributes:
        detail: what failed, or why it was skipped or not run; holds no proof.
        sent: bytes to the system under test.
        received: bytes from it.
        contacted: what answered, as scheme, host and port.
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
    """A result with everything that the scenario itself says."""
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
    """A whole run's.

    Attributes:
        target: `deployed system`, `local staging`, `local gateway` or `no server`.
        base_url: where it is.
        engines: of a local one.
        versions: of the server, as its health says, and of the runner.
        health: the server's `e2e_testing` and status as it said them when the run began.
        proof: how the runner proved itself, by kind only.
        started_at: ISO 8601, UTC.
        posted: what became of `POST /api/v1/e2e/results`.
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
        """How many ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def good(self) -> bool:
        """Whether everything that was selected passed, or was skipped with leave; and something did pass."""
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
        """Everything that answered."""
        return sorted({peer for result in self.results for peer in result.contacted})

    @property
    def received(self) -> int:
        """Bytes from the system under test."""
        return sum(result.received for result in self.results)

    @property
    def sent(self) -> int:
        """Bytes to it."""
        return sum(result.sent for result in self.results)
