"""Measures every operation of the broker and the store: latency by operation, and failures.

Not here: what an operation does. Rules: it wraps a port's object and adds nothing but numbers; an operation that is
no coroutine function is passed through; only a `DependencyError` is a failure of the engine.
"""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

from narthex.errors import DependencyError
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.ports.telemetry import Meter, Reading

T = TypeVar("T")

PORTS_OF_A_STORE = ("threads", "memberships", "runs", "credentials", "records")


def measured_broker(broker: Broker, meter: Meter) -> Broker:
    """`broker`, measured."""
    return _measured(broker, "broker", meter)


def measured_store(store: Store, meter: Meter) -> Store:
    """`store` and its ports, measured; an operation is named `<port>.<method>`."""
    whole = _measured(store, "store", meter)
    for name in PORTS_OF_A_STORE:
        setattr(whole, name, _measured(getattr(store, name), "store", meter, f"{name}."))
    return whole


def _measured(inner: T, engine: str, meter: Meter, prefix: str = "") -> T:
    return cast("T", _Measured(inner, engine, meter, prefix))


class _Measured:
    """Stands for `inner`: each of its operations is wrapped when it is first used. Its own attributes have two
    underscores, so that none hides one of `inner`.
    """

    def __init__(self, inner: object, engine: str, meter: Meter, prefix: str) -> None:
        self.__inner = inner
        self.__engine = engine
        self.__meter = meter
        self.__prefix = prefix
        self.__failures: Counter[str] = Counter()
        meter.read_from(self._readings)

    def _readings(self) -> Iterable[Reading]:
        for operation, count in self.__failures.items():
            yield "engine_failures", (self.__engine, operation), count

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__inner, name)
        if name.startswith("_") or not inspect.ismethod(found):
            return found  # a plain attribute may change: it is read each time
        if inspect.iscoroutinefunction(found):
            found = self._timed(found, self.__prefix + name)
        self.__dict__[name] = found
        return found

    def _timed(self, call: Callable[..., Awaitable[Any]], operation: str) -> Callable[..., Awaitable[Any]]:
        observe = self.__meter.observer("engine_seconds", engine=self.__engine, operation=operation)
        failures, clock = self.__failures, time.perf_counter
        failures[operation] = 0  # the first failure must be a change

        async def timed(*args: Any, **members: Any) -> Any:
            began_at = clock()
            try:
                return await call(*args, **members)
            except DependencyError:
                failures[operation] += 1
                raise
            finally:
                observe(clock() - began_at)

        return timed
