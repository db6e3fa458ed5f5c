"""Makes a process's tracer from OpenTelemetry's variables; without them nothing is imported, and nothing traced.

Not here: which variables count (`settings/tracing.py`), the tracer (`adapters/telemetry/otel.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.app.handshake_trace import HandshakeTracer
from narthex.app.lifecycle import Component
from narthex.extras import require
from narthex.ports.telemetry import Meter
from narthex.ports.tracing import NO_TRACING, Tracer
from narthex.settings import Settings
from narthex.settings.requirements import requirements
from narthex.settings.tracing import header_secrets


def make_tracer(settings: Settings, meter: Meter, *, share: bool = True) -> tuple[Tracer, list[Component]]:
    """The tracer, and the component that opens and closes it: open it first, so that it is closed last.

    Args:
        settings: validated.
        meter: counts the fate of spans.
        share: whether libraries in this process may find the tracer's provider: not in an embedding program, which has
            its own.

    Raises:
        ConfigError: the extra is not installed.
    """
    if not settings.tracing:
        return NO_TRACING, []
    require(*requirements(settings, {"traces"}))
    REDACTOR.register(header_secrets(os.environ))
    from narthex.adapters.telemetry.otel import OtelTracer

    tracer = OtelTracer(meter, share=share)
    return tracer, [Component("traces", tracer.start, tracer.stop)]


def handshake_tracer(
    tracer: Tracer, settings: Settings, breakers: Callable[[str], Sequence[str]]
) -> HandshakeTracer | None:
    """Spans of handshakes; None while tracing is off."""
    if not tracer.enabled:
        return None
    return HandshakeTracer(tracer, trusted=settings.trust_traceparent, breakers=breakers)
