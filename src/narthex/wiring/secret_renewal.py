"""Takes renewed secrets (admin key, scrapers' and status tokens, end-to-end keys) without a restart.

Not here: reading them (`Settings.renew_secrets`). Rules: a source that cannot be read leaves the old secrets in place,
and is logged once; a renewed secret is masked in logs before it counts; of one that needs a restart the log says so.
"""

from __future__ import annotations

import asyncio
from typing import Any

from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.app.lifecycle import Component
from narthex.app.periodic import Periodic
from narthex.errors import ConfigError
from narthex.settings import Settings
from narthex.settings.groups import option_fields
from narthex.settings.options import facts


class SecretRenewal:
    """See the module. `log` is a structlog logger."""

    def __init__(self, settings: Settings, log: Any) -> None:
        self._settings = settings
        self._log = log
        self._fault = ""

    async def look(self) -> None:
        """Read the sources once."""
        try:
            renewed, stale = await asyncio.to_thread(self._settings.renew_secrets, REDACTOR.register)
        except ConfigError as fault:
            if fault.message != self._fault:
                self._log.warning("secrets cannot be read", detail=fault.message)
            self._fault = fault.message
            return
        self._fault = ""
        for name in renewed:
            self._log.info("secret renewed", setting=_variable(name))
        for name in stale:
            self._log.warning(
                "secret changed", setting=_variable(name), detail="The new one counts from the next start."
            )


def secret_renewal(settings: Settings, log: Any) -> list[Component]:
    """The component; none where no secret can be renewed."""
    if not settings.has_references or not settings.secrets_refresh_s:
        return []
    looking = Periodic(SecretRenewal(settings, log).look, every_s=settings.secrets_refresh_s)
    return [Component("secrets", looking.start, looking.stop)]


def _variable(name: str) -> str:
    section, field = option_fields()[name]
    return facts(name, field, section).variables[0]
