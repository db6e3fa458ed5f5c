"""The interface of the circuit breaker: one per dependency and traffic class.

Not here: the library (an adapter's). Guarantees: only `DependencyError` and `TimeoutError` count as failures (transport
errors, time-outs, 5xx); any answer is a success, above all a refused credential; while half-open, one probe runs and
every other call fails at once; a cancelled probe does not count and the next call probes; test traffic cannot open the
users' breaker, and users' traffic cannot open the tests'.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

T = TypeVar("T")


class BreakerChange(msgspec.Struct, frozen=True, kw_only=True):
    """A transition, for logs: states are `closed`, `half_open`, `open`; `reason` is a fixed sentence."""

    dependency: str
    traffic: str
    before: str
    after: str
    reason: str


class Breaker(Protocol):
    """See the module's guarantees."""

    @property
    def state(self) -> str:
        """`closed`, `half_open` or `open`."""

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work`, which has a deadline of its own, if the breaker allows it.

        Raises:
            DependencyError: code `circuit_open`, and nothing was tried; or whatever `work` raised.
        """


class Breakers(Protocol):
    """All breakers."""

    def get(self, dependency: str, traffic: str) -> Breaker:
        """The breaker of a dependency for a traffic class (`user` or `e2e`); the same one each time."""

    def states(self, dependency: str) -> dict[str, str]:
        """State by traffic class."""
