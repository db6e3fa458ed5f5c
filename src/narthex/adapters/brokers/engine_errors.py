"""Builds the errors of the brokers on shared engines, with the same text for every engine, and retries calls.

`Retrier` repeats a call to an engine within one time-out. Not here: I/O; each adapter classifies the errors of its
engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

from narthex.errors import DependencyError, Overloaded

FIRST_WAIT_S: Final = 0.05
MOST_WAIT_S: Final = 0.5  # the longest time until an engine that is back is noticed

T = TypeVar("T")
Healing = Callable[[Exception], Awaitable[None]]


class EngineErrors(NamedTuple):
    """Words for an engine in errors: its name, and where the operator should look for the cause."""

    name: str
    server: str

    def not_running(self) -> DependencyError:
        """A call before `start` or after `stop`."""
        return DependencyError("broker", f"The {self.name} broker is not running.", "Call start() first.")

    def full(self, waiting: int) -> Overloaded:
        """Too many publications wait: `waiting` of them."""
        return Overloaded(
            "broker",
            f"{waiting} publications are waiting for {self.server}.",
            f"Retry later; if the problem persists, check the {self.name} servers.",
        )

    def late(self, timeout_s: float) -> DependencyError:
        """A publication that was not acknowledged in time; a retry with its key shows whether it was stored."""
        return DependencyError(
            "broker",
            f"{self.server} did not acknowledge within {timeout_s:g} s.",
            f"Retry with the same key; if the problem persists, check the {self.name} servers.",
        )

    def silent(self, where: str, why: str, sign: str = "") -> DependencyError:
        """`where` did not answer; `sign` is that of `DependencyError`."""
        return DependencyError(
            "broker",
            f"{self.server} at {where} did not answer: {why}.",
            f"Retry; if the problem persists, check the {self.name} servers.",
            sign=sign,
        )


class Retrier:
    """Repeats a call until it succeeds or `timeout_s` is over.

    Args:
        engine: for errors.
        where: the address, without credentials.
        timeout_s: of a call with all its tries.
        passing: transient errors, after which it retries; it raises all others unchanged.
        heal: called with each transient error before the next try; must not raise.
        stopping: returns whether to stop retrying.
    """

    def __init__(
        self,
        engine: EngineErrors,
        where: str,
        timeout_s: float,
        *,
        passing: tuple[type[Exception], ...],
        heal: Healing,
        stopping: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._where = where
        self._timeout_s = timeout_s
        self._passing = passing
        self._heal = heal
        self._stopping = stopping

    async def call(self, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call`. Raises DependencyError, or an error that is not in `passing`."""
        wait_s = FIRST_WAIT_S
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    try:
                        return await call()
                    except self._passing as error:
                        if self._stopping():
                            raise self.silent(error) from error
                        fault = error
                    await self._heal(fault)
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, MOST_WAIT_S)
        except TimeoutError as late:
            raise self._engine.silent(self._where, f"no answer within {self._timeout_s:g} s") from late

    def silent(self, error: Exception) -> DependencyError:
        """The error for an engine that failed, without the library's message, which may quote the sent data."""
        return self._engine.silent(self._where, type(error).__name__)
