"""The contract of `ports/store.py`, run by every engine: lifecycle, audit records, results."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import pytest

from narthex.errors import ClientError, DependencyError
from narthex.ports.store import KEPT_RESULTS, AuditRecord, Store, TestRunResult
from tests.contracts.rigs import StoreRig, child
from tests.contracts.rows import run, start, thread

ROOT = Path(__file__).parents[2]


class TestLife:
    """`start`, `stop`, `ping`, durability."""

    async def test_writes_survive_a_restart(self, store_rig: StoreRig) -> None:
        """Data written before a clean stop is read after the next start; a second migration changes nothing."""
        first = store_rig.make()
        await first.start()
        await first.threads.create(thread("t1"))
        await first.stop()
        second = store_rig.make()
        await second.start()
        assert await second.threads.get("a", "t1") == thread("t1")
        await second.stop()

    async def test_stopped_store_says_so(self, store_rig: StoreRig) -> None:
        """Before `start` and after `stop` calls raise; a second stop is allowed."""
        store = store_rig.make()
        with pytest.raises(DependencyError):
            await store.threads.get("a", "t1")
        await store.start()
        await store.stop()
        await store.stop()
        with pytest.raises(DependencyError):
            await store.threads.create(thread("t1"))

    async def test_ping(self, store: Store) -> None:
        """A round trip, also many at once."""
        await asyncio.gather(*(store.ping() for _ in range(10)))
        assert store.durability.endswith(".")

    async def test_acknowledged_writes_survive_kill_9(self, store_rig: StoreRig) -> None:
        """A writer killed during its work, three times: every acknowledged audit record is present."""
        told: set[str] = set()
        for turn in range(3):
            told |= set(await asyncio.to_thread(_write_and_kill, store_rig.spec(), turn * 1_000_000, 300))
        store = store_rig.make()
        await store.start()
        kept = {record.subject for record in await store.records.audits("kill", 10_000)}
        await store.stop()
        assert len(told) >= 900
        assert told <= kept

    async def test_cancelled_writes_do_not_disturb_others(self, store: Store) -> None:
        """Of 90 creates every third is cancelled mid-flight: the others are present."""
        tasks = [asyncio.create_task(store.threads.create(thread(f"t{n}"))) for n in range(90)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if outcome is True:
                assert await store.threads.get("a", f"t{number}") == thread(f"t{number}")
            else:
                assert number % 3 == 0
        assert await store.threads.create(thread("after"))

    async def test_a_failing_write_undoes_only_itself(self, store: Store) -> None:
        """Writes that fail among others that run at the same time."""
        await start(store, run("r0"))
        outcomes = await asyncio.gather(
            *(store.runs.start(run(f"r{n}"), queue_limit=1 if n % 2 else 100) for n in range(1, 21)),
            return_exceptions=True,
        )
        for number, outcome in enumerate(outcomes, start=1):
            assert isinstance(outcome, ClientError if number % 2 else tuple)
        assert len(await store.runs.active_in_thread("a", "t1")) == 11


def _write_and_kill(spec: str, start_at: int, lines: int) -> list[str]:
    """The acknowledged subjects that a writer process printed before it was killed."""
    process = subprocess.Popen(
        child("auditor", spec, str(start_at)), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return [line.strip() for line in told if line.endswith("\n")]


class TestRecords:
    """Audit, results."""

    async def test_audits(self, store: Store) -> None:
        """Newest first, by kind or all."""
        for number in range(5):
            await store.records.audit(
                AuditRecord(at=1.0, kind="ab"[number % 2], tenant="t", subject=str(number), detail="{}")
            )
        assert [record.subject for record in await store.records.audits("a", 2)] == ["4", "2"]
        assert [record.subject for record in await store.records.audits(None, 10)] == list("43210")

    async def test_results(self, store: Store) -> None:
        """A test run's result is replaced by its next."""

        def result(name: str, at: float, failed: int = 0) -> TestRunResult:
            return TestRunResult(
                test_run=name,
                at=at,
                environment="staging",
                passed=1,
                failed=failed,
                skipped=0,
                duration_s=0.5,
            )

        await store.records.add_result(result("x", 1.0))
        await store.records.add_result(result("y", 2.0))
        await store.records.add_result(result("x", 3.0, failed=2))
        assert await store.records.results(10) == [result("x", 3.0, failed=2), result("y", 2.0)]

    async def test_results_are_bounded(self, store: Store) -> None:
        """A user who may post results may post many: the newest stay, and a replaced one counts once."""

        def result(number: int) -> TestRunResult:
            return TestRunResult(
                test_run=f"run-{number}", at=float(number), environment="staging", passed=1, failed=0, skipped=0,
                duration_s=0.5,
            )  # fmt: skip

        for number in range(KEPT_RESULTS + 3):
            await store.records.add_result(result(number))
        await store.records.add_result(result(KEPT_RESULTS + 2))
        kept = await store.records.results(KEPT_RESULTS + 10)
        assert [found.test_run for found in kept] == [f"run-{n}" for n in range(KEPT_RESULTS + 2, 2, -1)]
