"""Gives the rules their view of the observations.

Not here: rules.
"""

from __future__ import annotations

from typing import Any

from narthex.doctor.diagnosis.fingerprints import proxy_in_front, who_answered
from narthex.doctor.documents import json_object
from narthex.doctor.observations import HttpExchange, Observations


class View:
    """One examination. `base` is the handshake with the best credential that was at hand."""

    def __init__(self, seen: Observations) -> None:
        self.seen = seen
        self.asked = seen.asked
        self.exchanges = seen.exchanges
        self.plain = self.one("plain GET")
        self.first = self.one("upgrade")
        self.base = self.one("upgrade with the credential") or self.first
        self.bad = self.one("upgrade with a bad token")
        self.random = self.one("upgrade of a random path")
        self.origin = self.one("upgrade with Origin")
        self.large = self.one("upgrade with a 9 KB header")

    def one(self, name: str) -> HttpExchange | None:
        """The exchange of this name."""
        return next((made for made in self.exchanges if made.attempt.name == name), None)

    def alike(self) -> list[HttpExchange]:
        """The identical handshakes: the base one and its repetitions."""
        repeated = [made for made in self.exchanges if made.attempt.name.startswith("upgrade again")]
        return ([self.base] if self.base else []) + repeated

    @property
    def server(self) -> str:
        """The server's name, for a sentence."""
        names = (who_answered(made) for made in (self.base, self.plain) if made)
        return next((name for name in names if name), "the server")

    @property
    def proxy(self) -> str:
        """The proxy in front, if an answer names one."""
        return proxy_in_front(self.base, self.plain, self.random, self.first)


def problem_of(exchange: HttpExchange) -> dict[str, Any]:
    """The body as problem+json or any JSON object; empty when it is none."""
    return json_object(exchange.body) or {}


def narthex_code(exchange: HttpExchange) -> str:
    """The refusal's code when a narthex wrote this answer."""
    body = problem_of(exchange)
    code = body.get("code")
    return code if isinstance(code, str) and "trace_id" in body else ""


def asks_for_credential(exchange: HttpExchange) -> bool:
    """Whether the answer only says that a credential is needed."""
    if narthex_code(exchange) == "auth_required":
        return True
    challenge = exchange.headers.get("www-authenticate", "").lower()
    return exchange.status == 401 and not challenge.startswith(("basic", "digest", "negotiate"))


def short(text: str, limit: int = 100) -> str:
    """One line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
