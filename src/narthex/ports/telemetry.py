"""The interface for counting and recording. docs/operations.md lists the metrics; the registry is an adapter's.

Guarantees: no method raises, waits, or takes a value that could be a secret; labels are from closed sets
(codes, classes, carriers, environments), never ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

Reading = tuple[str, tuple[str, ...], float]
"""A metric's name, its label values, and its value now: of a gauge, or of a counter the total so far."""

Source = Callable[[], Iterable[Reading]]
"""Reads numbers that a component keeps in plain integers; called when the metrics are read, on the event loop."""


class Meter(Protocol):
    """Counters, gauges and histograms, pre-bound for the hot path by the adapter."""

    def handshake(self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = "") -> None:
        """`narthex_handshakes_total{outcome,code,class}` and `narthex_handshake_seconds`; both keep `trace_id` as their
        exemplar.
        """

    def credential(self, carrier: str, result: str) -> None:
        """`narthex_credential_extractions_total{carrier,result}`."""

    def e2e_admission(self, result: str) -> None:
        """`narthex_e2e_admissions_total{result}`."""

    def e2e_tests(self, result: str, count: int) -> None:
        """`narthex_e2e_tests_total{result}`."""

    def connections(self, traffic: str, delta: int) -> None:
        """`narthex_connections_active{class}` up or down."""

    def disconnect(self, code: int) -> None:
        """`narthex_disconnects_total{code}`."""

    def breaker(self, dependency: str, traffic: str, state: str) -> None:
        """`narthex_breaker_state{dependency,class}`: closed 0, half_open 1, open 2."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to counter `narthex_<name>_total`; labels must be the ones it was declared with. An amount of 0 shows
        the series before its first event.
        """

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Observe in histogram `narthex_<name>` (unit in its name)."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set gauge `narthex_<name>`."""

    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        """Returns the method that observes in histogram `narthex_<name>`, bound once, for hot paths."""

    def read_from(self, source: Source) -> None:
        """Read these numbers from `source` whenever the metrics are read. A counter's total never falls."""
