"""Folds a run's log into the texts that users sent to its agent, and which of them the agent has taken.

Not here: sending them (`app/runs/steering.py`), giving them to the agent (`app/runs/session.py`). Rules: CUSTOM
`narthex.steering` says that the run accepted a text, CUSTOM `narthex.steered` that its agent took it; a restarted agent
gets all of them again, because what it took before is void.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from narthex.domain.events import Event, custom

ACCEPTED: Final = "narthex.steering"
TAKEN: Final = "narthex.steered"


class SteeredText(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A text for an agent at work: its id in the run, its sender, and the message that it is, if it is one."""

    steer_id: str
    text: str
    by: str
    message_id: str = ""

    def accepted(self) -> Event:
        """The run holds the text for its agent."""
        return custom(ACCEPTED, msgspec.to_builtins(self))

    def taken(self) -> Event:
        """The agent took the text."""
        return custom(TAKEN, msgspec.to_builtins(self))


class SteeredTexts:
    """The fold of one run."""

    __slots__ = ("_accepted", "_taken")

    def __init__(self) -> None:
        self._accepted: dict[str, SteeredText] = {}
        self._taken: set[str] = set()

    def feed(self, event: Event) -> None:
        """Take the next event of the run."""
        if event["type"] != "CUSTOM":
            return
        name = event.get("name")
        if name == "narthex.restarted":
            self._taken.clear()
        elif name in (ACCEPTED, TAKEN) and isinstance(value := event.get("value"), dict):
            # Earlier versions know TAKEN only, without an id, and publish it before their agent gets the text.
            if not isinstance(steer_id := value.get("steerId"), str):
                return
            if name == TAKEN:
                self._taken.add(steer_id)
            else:
                self._accepted[steer_id] = msgspec.convert(value, SteeredText)

    def knows(self, steer_id: str) -> bool:
        """Whether the run accepted a text with this id."""
        return steer_id in self._accepted

    @property
    def all(self) -> list[SteeredText]:
        """Every text, in the order in which they came."""
        return list(self._accepted.values())

    @property
    def unread(self) -> list[SteeredText]:
        """Those that the agent has not taken."""
        return [text for steer_id, text in self._accepted.items() if steer_id not in self._taken]


def foreign(event: Event) -> Event:
    """An agent's own event (one of a gateway behind this one) without the members by which the fold and `concerns` know
    the gateway's: no agent can put a text into a user's mouth.
    """
    value = event.get("value")
    if event.get("name") not in (ACCEPTED, TAKEN) or not isinstance(value, dict):
        return event
    kept = {name: part for name, part in value.items() if name not in ("steerId", "messageId")}
    return {**event, "value": kept}


def concerns(event: dict[str, Any], message_id: str) -> bool:
    """Whether a run's event says that the run accepted a message for its agent, or that the agent took it."""
    value = event.get("value")
    return (
        event.get("name") in (ACCEPTED, TAKEN)
        and isinstance(value, dict)
        and value.get("messageId") == message_id
    )
