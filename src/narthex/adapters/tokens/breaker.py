"""`narthex.ports.breaker` on fluxgate (docs/decisions/0006): of the libraries tried, the one whose half-open state
admits one probe and recovers after a cancelled one.

Rules: fluxgate lets calls wait for the probe; here they are turned away at once, because a handshake's time is
worth more than the small chance that the probe succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from fluxgate import AsyncCircuitBreaker
from fluxgate.errors import CallNotPermittedError
from fluxgate.permits import All as EveryProbe
from fluxgate.retries import Cooldown
from fluxgate.signal import Signal
from fluxgate.trackers import TypeOf
from fluxgate.trippers import Closed, FailureRate, FailureStreak, HalfOpened, MinRequests
from fluxgate.windows import TimeWindow

from narthex.errors import DependencyError
from narthex.ports.breaker import Breaker, BreakerChange
from narthex.ports.telemetry import Meter

T = TypeVar("T")

OPEN_S: Final = 4.0  # a dependency that is back is used again within 10 s (issue 4), probe included
STREAK: Final = 5  # failures in a row
RATE: Final = 0.5  # of at least MIN_CALLS in WINDOW_S
MIN_CALLS: Final = 10
WINDOW_S: Final = 30

_REASONS: Final = {
    "open": "failures reached the threshold",
    "half_open": "the pause is over; one probe request is allowed",
    "closed": "the probe succeeded",
}


class FluxgateBreaker:
    """Implements `narthex.ports.breaker.Breaker`.

    Args:
        dependency: its role or name, for example `jwks:default`.
        traffic: `user` or `e2e`.
        open_s: how long nothing is tried.
        on_change: told of every transition; must not raise.
    """

    def __init__(
        self,
        dependency: str,
        traffic: str,
        *,
        open_s: float = OPEN_S,
        on_change: Callable[[BreakerChange], None],
    ) -> None:
        self.dependency = dependency
        self.traffic = traffic
        self._open_s = open_s
        self._on_change = on_change
        self._opened_at = 0.0
        self._probing = False
        self._circuit = AsyncCircuitBreaker(
            window=TimeWindow(WINDOW_S),
            tracker=TypeOf(DependencyError, TimeoutError),
            tripper=(HalfOpened() & FailureStreak(1))
            | (Closed() & (FailureStreak(STREAK) | (MinRequests(MIN_CALLS) & FailureRate(RATE)))),
            retry=Cooldown(open_s),
            permit=EveryProbe(),
            max_half_open_calls=1,
            listeners=[self._changed],
        )

    @property
    def state(self) -> str:
        """See the port."""
        return str(self._circuit.info().state)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """See the port."""
        if self._probing:
            raise self._turned_away()
        probe = self.state != "closed"
        self._probing = probe
        try:
            return await self._circuit.call(work)
        except CallNotPermittedError:
            raise self._turned_away() from None
        finally:
            if probe:
                self._probing = False

    def _turned_away(self) -> DependencyError:
        left = max(1.0, self._opened_at + self._open_s - time.monotonic())
        return DependencyError(
            "auth",
            f"{self.dependency} failed for {self.traffic} traffic; no requests are sent to it for {self._open_s:g} s.",
            "Check that it responds; the gateway retries automatically.",
            retry_after_s=left,
            code="circuit_open",
        )

    def _changed(self, signal: Signal) -> None:
        if signal.new_state == "open":
            self._opened_at = time.monotonic()
        self._on_change(
            BreakerChange(
                dependency=self.dependency,
                traffic=self.traffic,
                before=str(signal.old_state),
                after=str(signal.new_state),
                reason=_REASONS.get(str(signal.new_state), ""),
            )
        )


class BreakerBoard:
    """Implements `narthex.ports.breaker.Breakers`: makes each breaker once, and reports its state.

    Args:
        meter: gets `narthex_breaker_state`.
        on_change: told of transitions, for the log.
        open_s: how long an open breaker tries nothing.
    """

    def __init__(
        self, meter: Meter, on_change: Callable[[BreakerChange], None], *, open_s: float = OPEN_S
    ) -> None:
        self._meter = meter
        self._on_change = on_change
        self._open_s = open_s
        self._breakers: dict[tuple[str, str], FluxgateBreaker] = {}

    def get(self, dependency: str, traffic: str) -> Breaker:
        """See the port."""
        found = self._breakers.get((dependency, traffic))
        if found is None:
            found = FluxgateBreaker(dependency, traffic, open_s=self._open_s, on_change=self._changed)
            self._breakers[dependency, traffic] = found
            self._meter.breaker(dependency, traffic, found.state)
        return found

    def states(self, dependency: str) -> dict[str, str]:
        """See the port."""
        return {
            traffic: breaker.state
            for (name, traffic), breaker in self._breakers.items()
            if name == dependency
        }

    def troubled(self, traffic: str) -> list[str]:
        """The breakers of a traffic class that are not closed, each as `dependency: state`."""
        return [
            f"{name}: {breaker.state}"
            for (name, of), breaker in self._breakers.items()
            if of == traffic and breaker.state != "closed"
        ]

    def _changed(self, change: BreakerChange) -> None:
        self._meter.breaker(change.dependency, change.traffic, change.after)
        self._on_change(change)
