"""The counts of fan-out, clients' messages and slow clients."""

from __future__ import annotations

from narthex.app.traffic import Traffic
from narthex.ports.telemetry import Source
from tests.app.runs.fakes import FakeMeter


class ReadMeter(FakeMeter):
    """A meter whose sources can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[Source] = []

    def read_from(self, source: Source) -> None:
        """Keep it."""
        self.sources.append(source)

    def read(self) -> dict[tuple[str, ...], float]:
        """Every reading of every source, by name and labels."""
        return {(name, *labels): value for source in self.sources for name, labels, value in source()}


class Slow:
    """A lagging client."""

    def __init__(self, size: int, since: float) -> None:
        self._kept = size, since

    def backlog(self) -> tuple[int, float]:
        """See `Lagging`."""
        return self._kept


def test_the_lag_is_that_of_the_slowest_client() -> None:
    """Bytes add up, the lag is the longest; a client without kept bytes lags for no time."""
    meter = ReadMeter()
    traffic = Traffic(meter, lambda: 100.0)
    assert meter.read()["client_lag_max_seconds",] == 0
    slow, slower, fresh = Slow(10, 99.0), Slow(20, 95.0), Slow(0, float("inf"))
    traffic.lagging.update((slow, slower, fresh))
    read = meter.read()
    assert (read["clients_lagging",], read["client_backlog_bytes",], read["client_lag_max_seconds",]) == (
        3,
        30,
        5.0,
    )
