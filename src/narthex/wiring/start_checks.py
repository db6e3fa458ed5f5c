"""Finds faults that would stop a start, before a socket is opened: extras, programs, keys, agents.

Not here: settings (`narthex.settings.load` checks them), faults that only a connection shows (`connection_checks`).
Rules: nothing is fetched, stored, bound or started; all problems are reported together.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import cast

from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.errors import ConfigError, DependencyError
from narthex.extras import NATS_SERVER, NO_NATS_SERVER, missing_extras, program_path
from narthex.ports.credentials import Credentials
from narthex.settings import Settings
from narthex.settings.requirements import ALL_PARTS, Part, requirements
from narthex.wiring.agents import load_agents
from narthex.wiring.tokens import make_tokens


def check_start(settings: Settings, parts: Collection[Part] = ALL_PARTS, *, agents: bool = True) -> None:
    """Find missing or unusable parts.

    Args:
        settings: as loaded.
        parts: the engines that the command opens.
        agents: whether the command runs agents, in this process.

    Raises:
        ConfigError: with every problem; a missing extra among them.
        DependencyError: the only fault is a missing program.
    """
    problems = [problem] if (problem := missing_extras(requirements(settings, parts))) else []
    try:
        make_tokens(settings, cast("Credentials", None), PrometheusMeter(), time.time)  # nothing is stored
    except ConfigError as fault:
        problems += fault.problems
    if agents:
        try:
            load_agents(settings, _no_facts)
        except ConfigError as fault:
            problems += fault.problems
    lacking = needs_nats_server(settings, parts) and program_path(NATS_SERVER) is None
    if problems:
        raise ConfigError([*problems, *([" ".join(NO_NATS_SERVER)] if lacking else [])])
    if lacking:
        raise DependencyError("broker", *NO_NATS_SERVER)


def needs_nats_server(settings: Settings, parts: Collection[Part]) -> bool:
    """Whether serving starts a NATS server of its own."""
    return "broker" in parts and settings.workers > 1 and settings.broker_url is None


async def _no_facts() -> Mapping[str, object]:
    return {}
