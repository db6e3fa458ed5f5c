"""The registry of lies: how each is made, and the scenarios that must notice it with a matching failure text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tests.e2e.lies.server import Lie


class Told(NamedTuple):
    """A lie and the scenarios that must notice it: scenario → a regular expression that its failure must match."""

    make: Callable[[], Lie]
    noticed_by: Mapping[str, str]
    real: bool


LIES: Final[dict[str, Told]] = {}


def lie(noticed_by: Mapping[str, str], *, real: bool = False) -> Callable[[type[Lie]], type[Lie]]:
    """Register a lie under its class's name. `real`: it needs two gateways, real engines and an issuer."""

    def register(made: type[Lie]) -> type[Lie]:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in made.__name__)
        LIES[name.lstrip("_")] = Told(made, noticed_by, real)
        return made

    return register
