"""Defines scenarios and registers them. Not here: the scenarios themselves (`scenarios/`).

Rules: every assertion is about a response of the server under test; a scenario that exchanged no byte with
it has failed, whatever it asserted; a scenario touches only threads of its own test run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, NamedTuple

from narthex.e2e.system_under_test import SystemUnderTest


class Category(StrEnum):
    """The categories that a runner offers. They run in this order."""

    UNIT = "unit"
    SMOKE = "smoke"
    STARTUP = "startup"
    WEBSOCKET = "websocket"
    AUTH = "auth"
    SECURITY = "security"
    CHAT = "chat"
    AGENT = "agent"
    INTEGRATION = "integration"
    E2E = "e2e"
    RESILIENCE = "resilience"
    PERFORMANCE = "performance"


DEPENDS_ON: Final[dict[Category, tuple[Category, ...]]] = {
    Category.UNIT: (),
    Category.SMOKE: (),
    Category.STARTUP: (Category.SMOKE,),
    Category.WEBSOCKET: (Category.SMOKE,),
    Category.AUTH: (Category.SMOKE,),
    Category.SECURITY: (Category.SMOKE, Category.AUTH),
    Category.CHAT: (Category.SMOKE, Category.WEBSOCKET),
    Category.AGENT: (Category.SMOKE, Category.WEBSOCKET),
    Category.INTEGRATION: (Category.SMOKE, Category.CHAT, Category.AGENT),
    Category.E2E: (Category.SMOKE,),
    Category.RESILIENCE: (Category.SMOKE, Category.E2E),
    Category.PERFORMANCE: (Category.SMOKE, Category.E2E),
}
"""A category whose dependency failed is not run: its failures would only repeat the cause."""

Body = Callable[[SystemUnderTest], Awaitable[None]]


class Scenario(NamedTuple):
    """One test.

    Attributes:
        name: `group.function`, unique.
        category: see `Category`.
        group: the file it belongs to, for example `websocket_events`.
        title: one sentence that is true when the scenario passes.
        body: the test.
        incident: one of the seven that failed in the incident from which this project grew.
        timeout_s: its deadline.
        always: a negative (no token, bad token, wrong key, foreign tenant), which is part of every run.
        alone: it kills something or measures time, so nothing runs beside it.
    """

    name: str
    category: Category
    group: str
    title: str
    body: Body
    incident: bool = False
    timeout_s: float = 60.0
    always: bool = False
    alone: bool = False

    @property
    def serves(self) -> bool:
        """Whether it tests a server, and so must exchange bytes with it."""
        return self.category is not Category.UNIT


REGISTER: Final[dict[str, Scenario]] = {}


def scenario(
    category: Category,
    *,
    incident: bool = False,
    timeout_s: float = 60.0,
    always: bool = False,
    alone: bool = False,
) -> Callable[[Body], Body]:
    """Register a scenario. Its group is its module's name, its title its docstring."""

    def register(body: Body) -> Body:
        group = body.__module__.rpartition(".")[2]
        title = " ".join((body.__doc__ or body.__name__).split())
        name = f"{group}.{body.__name__}"
        REGISTER[name] = Scenario(name, category, group, title, body, incident, timeout_s, always, alone)
        return body

    return register


def every() -> list[Scenario]:
    """All scenarios, in the order of their categories, then of their files."""
    from narthex.e2e import scenarios

    scenarios.load()
    order = list(Category)
    return sorted(REGISTER.values(), key=lambda found: order.index(found.category))
