"""Counts client commands by method and result, with their latency.

Not here: executing commands. Rule: a method's name comes from a closed set, because a client may send any.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Final

from narthex.ports.telemetry import Meter, Reading
from narthex.protocol.commands import RpcRequest
from narthex.protocol.replies import error_code
from narthex.protocol.session import ReceivedCommand

OTHER: Final = "other"
clock: Final = time.perf_counter  # the loop's own stands still within an iteration


class CommandMeter:
    """See the module.

    Args:
        meter: reads the counts.
        methods: names of RPC methods; each is counted as `rpc:<name>`.
    """

    def __init__(self, meter: Meter, methods: Collection[str]) -> None:
        self._meter = meter
        self._methods = {name: f"rpc:{name}" for name in methods}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._observers: dict[str, Callable[[float], None]] = {}
        meter.read_from(self._readings)

    def ended(self, command: ReceivedCommand, reply: bytes | None, began_at: float) -> None:
        """A command was answered by `reply` (None: it has none of its own); it began at `clock`'s `began_at`."""
        name, request = command.name, command.request
        if type(request) is RpcRequest:
            name = self._methods.get(request.method, OTHER)
        self._counts[name, "ok" if reply is None else error_code(reply)] += 1
        observe = self._observers.get(name)
        if observe is None:
            observe = self._observers[name] = self._meter.observer("command_seconds", method=name)
        observe(clock() - began_at)

    def _readings(self) -> Iterable[Reading]:
        for labels, count in self._counts.items():
            yield "commands", labels, count
