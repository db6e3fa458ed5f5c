"""Dispatches control messages between nodes to the handler of their kind.

Not here: the handlers, sending. Each message only speeds up a change that the store has already, so a lost one delays
and never loses (ports/broker). Kinds: `revoke` (a credential), `disconnect`, `subscribe` and `unsubscribe`
(`connection_controls`), `run` and `runs_available` (the engine's), `emulation` (the fallbacks'), `drain` (this node),
those of the fleet (`wiring.fleet`).
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.ports.broker import Control
from narthex.ports.telemetry import Meter


class ControlDispatcher:
    """Dispatches by kind; unknown kinds (of a newer version) are ignored and counted."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._handlers: dict[str, Callable[[Control], None]] = {}
        self._on_missed: list[Callable[[], None]] = []

    def on(self, kind: str, handler: Callable[[Control], None]) -> None:
        """Register the handler of a kind. It must not block and must not raise."""
        self._handlers[kind] = handler

    def on_missed(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever control messages may have been lost. It must not block and must not raise."""
        self._on_missed.append(listener)

    def __call__(self, message: Control) -> None:
        """Handle a control message."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            self._meter.count("messages_ignored", reason="control")
        else:
            handler(message)

    def missed(self) -> None:
        """Messages may have been lost: call the listeners."""
        for listener in self._on_missed:
            listener()

    def behind(self, channels: int) -> None:
        """This node was behind the log in that number of channels, so control messages may have been lost too."""
        self._meter.count("channels_behind", channels)
        self.missed()
