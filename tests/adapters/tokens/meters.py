"""A meter that remembers breaker states and forgets the rest."""

from __future__ import annotations

from collections.abc import Callable

from narthex.ports.breaker import BreakerChange
from narthex.ports.telemetry import Source


class StateMeter:
    """Implements `narthex.ports.telemetry.Meter`; `states` has every breaker state that was reported."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str, str]] = []
        self.changes: list[BreakerChange] = []

    def breaker(self, dependency: str, traffic: str, state: str) -> None:
        self.states.append((dependency, traffic, state))

    def handshake(
        self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = ""
    ) -> None: ...

    def credential(self, carrier: str, result: str) -> None: ...

    def e2e_admission(self, result: str) -> None: ...

    def e2e_tests(self, result: str, count: int) -> None: ...

    def connections(self, traffic: str, delta: int) -> None: ...

    def disconnect(self, code: int) -> None: ...

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...
    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        return lambda value: self.observe(name, value)

    def read_from(self, source: Source) -> None: ...
