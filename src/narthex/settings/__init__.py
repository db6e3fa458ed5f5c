"""Settings: read, checked and explained in one place, before a socket is opened.

`load` reads flags, environment and `narthex.toml` and raises one ConfigError with every problem; `describe` says
what was read and from where, never a secret. Not here: what the settings mean to a room; `wiring` hands each one
its plain values.
"""

from __future__ import annotations

from narthex.settings.description import Row, describe, render_docs
from narthex.settings.loading import load
from narthex.settings.model import Settings
from narthex.settings.tables import Claims, IssuerSettings, PlanSettings, UserSettings

__all__ = [
    "Claims",
    "IssuerSettings",
    "PlanSettings",
    "Row",
    "Settings",
    "UserSettings",
    "describe",
    "load",
    "render_docs",
]
