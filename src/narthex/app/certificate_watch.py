"""Looks once an hour when the TLS certificates of the broker and the store end, for the metrics and their alert.

Not here: reading a certificate (`adapters/certificates.py`). Rules: each look is a connection of its own, because an
old connection keeps the certificate of its handshake and would warn of one that was renewed since; an engine that does
not answer keeps its last reading.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from narthex.app.periodic import BackgroundTask
from narthex.errors import DependencyError
from narthex.ports.telemetry import Meter, Reading

EVERY_S: Final = 3_600.0

Look = Callable[[], Awaitable[float]]


class CertificateWatch(BackgroundTask):
    """See the module.

    Args:
        engines: by name. Those without a method `certificate_ends_at` have no certificate.
        meter: shows `narthex_key_expiry_timestamp_seconds{key="tls:<name>"}` of those that use TLS.
        every_s: between looks.
    """

    def __init__(self, engines: Mapping[str, object], meter: Meter, *, every_s: float = EVERY_S) -> None:
        super().__init__(self._repeat, "certificates")
        self._looks: dict[str, Look] = {
            name: look
            for name, engine in engines.items()
            if (look := getattr(engine, "certificate_ends_at", None)) is not None
        }
        self._ends: dict[str, float] = {}
        self._every_s = every_s
        meter.read_from(self._readings)

    def _readings(self) -> Iterable[Reading]:
        for name, ends_at in self._ends.items():
            if ends_at:
                yield "key_expiry_timestamp_seconds", (f"tls:{name}",), ends_at

    async def _repeat(self) -> None:
        while self._looks:
            for name, look in self._looks.items():
                with contextlib.suppress(DependencyError):
                    self._ends[name] = await look()
            await asyncio.sleep(self._every_s)
