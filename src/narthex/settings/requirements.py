"""Finds the extras that the settings need: for engines that URLs name, NATS for several workers, and tracing.

Not here: the installed extras (`extras.py`), secrets of Secret Manager (`sources.py` reads them), and the
extras of agents (`adapters/agents/loading.py` imports them).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, Literal

from narthex.extras import Need
from narthex.settings.model import Settings

Part = Literal["broker", "store", "traces"]
ALL_PARTS: Final[frozenset[Part]] = frozenset({"broker", "store", "traces"})
"""The parts of a gateway that a command starts. Fewer parts need fewer extras."""

NATS_SCHEMES: Final = ("nats", "tls")
REDIS_SCHEMES: Final = ("redis", "rediss", "valkey", "valkeys")


def requirements(settings: Settings, parts: Collection[Part] = ALL_PARTS) -> Iterator[Need]:
    """Every extra that starting `parts` with these settings needs, with the reason."""
    if "broker" in parts:
        scheme = settings.broker_url.get_secret_value().partition("://")[0] if settings.broker_url else ""
        if scheme in NATS_SCHEMES:
            yield Need("nats", f"NARTHEX_BROKER_URL ({scheme}://)")
        elif scheme in REDIS_SCHEMES:
            yield Need("redis", f"NARTHEX_BROKER_URL ({scheme}://)")
        elif settings.workers > 1:
            yield Need("nats", f"NARTHEX_WORKERS={settings.workers} without a NARTHEX_BROKER_URL")
    if "store" in parts and settings.store_url:
        yield Need(
            "postgres", f"NARTHEX_STORE_URL ({settings.store_url.get_secret_value().partition(':')[0]}://)"
        )
    if "traces" in parts and settings.tracing:
        yield Need("otel", settings.tracing)
