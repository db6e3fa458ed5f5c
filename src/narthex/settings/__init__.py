"""Settings: reads, checks and explains them in one place, before any socket opens.

`load` reads flags, environment and `narthex.toml` and raises one ConfigError with every problem. `describe` lists
each value and its source, never a secret. Not here: the meaning of a setting for a component; `wiring` passes plain
values to each component.
"""

from __future__ import annotations

from narthex.settings.description import SettingRow, describe, render_docs
from narthex.settings.loading import load
from narthex.settings.model import Settings
from narthex.settings.tables import Claims, IssuerSettings, PlanSettings, UserSettings

__all__ = [
    "Claims",
    "IssuerSettings",
    "PlanSettings",
    "SettingRow",
    "Settings",
    "UserSettings",
    "describe",
    "load",
    "render_docs",
]
