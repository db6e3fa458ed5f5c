"""Latency and failures of the engines' operations."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app.engine_meter import measured_broker, measured_store
from narthex.errors import DependencyError
from tests.app.test_traffic import ReadMeter


class LabelMeter(ReadMeter):
    """Keeps observations by the operation, too."""

    def observer(self, name: str, **labels: str):  # type: ignore[no-untyped-def]
        """See the port."""
        return lambda value: self.observe(f"{name} {labels['engine']} {labels['operation']}", value)


async def test_an_operation_is_measured_and_its_result_is_unchanged(tmp_path: Path) -> None:
    """Names are the ports' methods; what is no coroutine function is passed through."""
    meter = LabelMeter()
    inner = SqliteStore(tmp_path / "store.db")
    store = measured_store(inner, meter)
    await store.start()
    try:
        await store.ping()
        assert await store.records.results(3) == []
        assert store.durability == inner.durability
    finally:
        await store.stop()
    measured = set(meter.observed)
    assert {"engine_seconds store ping", "engine_seconds store records.results"} <= measured
    assert meter.read()["engine_failures", "store", "records.results"] == 0


async def test_only_a_dependency_error_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the caller as it was raised."""
    meter = LabelMeter()
    inner = SqliteBroker(tmp_path / "log.db")

    async def fails(_: str) -> None:
        raise DependencyError("broker", "It is away.", "Wait.")

    async def raises(_: str) -> None:
        raise KeyError("a caller's mistake")

    monkeypatch.setattr(SqliteBroker, "members", lambda self, channel: fails(channel))
    broker = measured_broker(inner, meter)
    assert not hasattr(broker, "absent")
    for name, work, error in (("remove", fails, DependencyError), ("members", raises, KeyError)):

        async def method(self: SqliteBroker, channel: str, work=work) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
            await work(channel)

        monkeypatch.setattr(SqliteBroker, name, method)
        with pytest.raises(error):
            await getattr(broker, name)("thread:1")
    read = meter.read()
    assert read["engine_failures", "broker", "remove"] == 1
    assert read["engine_failures", "broker", "members"] == 0
    assert len(meter.observed["engine_seconds broker remove"]) == 1
