"""The procedure: DNS → TCP → TLS → plain GET → upgrades → conversation → hold, stopping where nothing can follow.

Not here: single steps (`dialing`, `exchanging`, `conversation`, `holding`), opinions (`diagnosis`). Rules: about a
dozen requests, one factor changed at a time, so that the doctor itself hits no rate limit; the bad token is
a constant; the user's own token goes only to the named host, never over a certificate that did not verify, and
not over plain text to a host that redirects to https.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable
from itertools import product
from typing import Any, Final

import msgspec

from narthex.doctor import dialing
from narthex.doctor.beacons import find_beacon
from narthex.doctor.conversation import converse
from narthex.doctor.documents import json_object
from narthex.doctor.exchanging import Line, Secrets, exchange
from narthex.doctor.holding import hold
from narthex.doctor.observations import (
    Attempt,
    Credential,
    GatewayFacts,
    HttpExchange,
    Observations,
    UserInput,
)
from narthex.doctor.target import Target
from narthex.domain import endpoints

REPEATS: Final = 4  # more handshakes of the same kind: 1 of 2 bad instances shows with 15 of 16
SETTLE_S: Final = (
    0.6  # how long the first socket is watched: handlers that check after accept close within it
)
PATIENCE_S: Final = 65.0  # for a handshake without an answer: proxies give up after 60 s
SLOW_MS: Final = 900.0  # HAProxy retries a refused back end for 3 s, daphne takes 1 s, time-outs take longer
MIN_LARGE_HEAD_S: Final = 1.0
VERDICT: Final = ("verdict", "inert", "status", "code", "detail", "carriers", "carriers_checked", "trace_id")
SHOWN_CLAIMS: Final = ("exp", "nbf", "iat", "iss", "aud")

Progress = Callable[[str], None]


class ExaminationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to examine. `hold_s` 0 holds nothing; `origin` empty is the target's own."""

    token: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    origin: str = ""
    timeout_s: float = 5.0
    hold_s: float = 0.0
    patience_s: float = PATIENCE_S
    settle_s: float = SETTLE_S
    thorough: bool = False
    ca_file: str = ""


async def examine(
    target: Target, options: ExaminationOptions, progress: Progress = lambda _: None
) -> Observations:
    """Examine one endpoint; never raises, whatever the endpoint does."""
    examination = _Examination(target, options, progress)
    await examination.run()
    return examination.seen


def claims_of(token: str) -> dict[str, object]:
    """The time and address claims of a JWT, unverified; empty when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)).decode()
    except (ValueError, binascii.Error):
        return {}
    found = json_object(raw) or {}
    return {name: found[name] for name in SHOWN_CLAIMS if isinstance(found.get(name), int | float | str)}


class _Examination:
    def __init__(self, target: Target, options: ExaminationOptions, progress: Progress) -> None:
        self.target = target
        self.options = options
        self.progress = progress
        self.secrets = Secrets(options.token, options.headers)
        self.line = self._line()
        self.address = ""
        self.routes = ""  # of a narthex, once it is found
        self.seen = Observations(
            url=target.shown,
            endpoint=target.endpoint,
            tls_asked=target.tls,
            loopback=target.loopback,
            hold_asked_s=options.hold_s,
            asked=UserInput(
                token=bool(options.token),
                claims=claims_of(options.token),
                headers=tuple(name for name, _ in options.headers),
                origin=options.origin,
                credential_in_query=target.credential_in_query,
                timeout_s=options.timeout_s,
                now=time.time(),
            ),
        )

    def _line(self) -> Line:
        return Line(self.target, self.secrets, timeout_s=self.options.timeout_s, ca_file=self.options.ca_file)

    def _note(self, **values: Any) -> None:
        self.seen = msgspec.structs.replace(self.seen, **values)

    async def run(self) -> None:
        if not await self._reach() or not await self._shake_hands():
            return
        await self._look_for_narthex()
        plain = await self._try(Attempt(name="plain GET", upgrade=False))
        first = await self._first(plain)
        if first.end == "unreachable":
            return
        if not (first.end == "response" and first.status) and not first.accepted:
            await self._after_no_answer(plain, first)
            return
        await self._vary(first)
        if self.seen.gateway is not None:
            await self._ask_narthex()
        if self._may_talk():
            self.progress("connect, echo, event, drop and resume")
            self._note(steps=tuple(await converse(self.line, self.address)))
        await self._hold()

    # -- to the host ---------------------------------------------------------------------------------------------

    async def _reach(self) -> bool:
        self.progress(f"looking up {self.target.host}")
        lookup = await dialing.look_up(self.target, self.options.timeout_s)
        self._note(lookup=lookup)
        if not lookup.addresses:
            return False
        self.progress(f"connecting to {', '.join(lookup.addresses)}")
        dials = await asyncio.gather(
            *(dialing.dial(self.target, address, self.options.timeout_s) for address in lookup.addresses)
        )
        self._note(dials=tuple(dials))
        self.address = next((dial.address for dial in dials if dial.outcome == "ok"), "")
        return bool(self.address)

    async def _shake_hands(self) -> bool:
        if not self.target.tls:
            return True
        self.progress("TLS")
        tls = await dialing.shake_hands(
            self.target, self.address, self.options.timeout_s, self.options.ca_file
        )
        self._note(tls=tls)
        if tls.outcome in ("not_tls", "closed", "timeout", "failed"):
            await self._try_plain_http()
        return tls.outcome == "ok"

    async def _try_plain_http(self) -> None:
        """Whether the port speaks plain HTTP instead. Sent without any credential."""
        target = msgspec.structs.replace(self.target, tls=False, query="")
        line = Line(target, Secrets(), timeout_s=min(2.0, self.options.timeout_s))
        answer = await exchange(line, self.address, Attempt(name="plain GET", upgrade=False))
        if answer.end == "response":
            self._note(other_scheme="http")

    async def _after_no_answer(self, plain: HttpExchange, first: HttpExchange) -> None:
        if not self.target.tls:
            self.progress("does the port speak TLS?")
            if await dialing.answers_tls(self.target, self.address, self.options.timeout_s):
                self._note(other_scheme="tls")
                return
        if first.end in ("eof", "reset", "partial"):
            for _ in range(REPEATS):
                await self._try(Attempt(name="upgrade again"))
            await self._try(Attempt(name="upgrade with a subprotocol", explain=True))
        if plain.end == "response":
            await self._try(Attempt(name="upgrade of a random path", random_path=True))

    # -- handshakes ----------------------------------------------------------------------------------------------

    async def _try(
        self, attempt: Attempt, *, settle_s: float = 0.05, address: str = "", timeout_s: float = 0.0
    ) -> HttpExchange:
        self.progress(attempt.name)
        made = await exchange(
            self.line, address or self.address, attempt, settle_s=settle_s, timeout_s=timeout_s
        )
        self._note(exchanges=(*self.seen.exchanges, made))
        return made

    async def _first(self, plain: HttpExchange) -> HttpExchange:
        """The first handshake carries nothing, so that a redirect is seen before a token is sent."""
        attempt = Attempt(name="upgrade")
        first = await self._try(attempt, settle_s=self.options.settle_s)
        patience_s = self.options.patience_s
        if first.end == "timeout" and plain.end == "response" and patience_s > self.options.timeout_s:
            self.progress(
                f"no answer to the handshake; waiting up to {patience_s:g} s for a time-out on the path"
            )
            again = await exchange(self.line, self.address, attempt, timeout_s=patience_s)
            self._note(exchanges=(*self.seen.exchanges[:-1], again))
            return again
        return first

    @property
    def _has_credential(self) -> bool:
        return bool(self.options.token or self.options.headers)

    def _plain_text_leak(self, first: HttpExchange) -> bool:
        return not self.target.tls and 300 <= first.status < 400

    async def _vary(self, first: HttpExchange) -> None:
        best: Credential = "none"
        base = first
        if self._has_credential and not self._plain_text_leak(first):
            best = "good"
            base = await self._try(
                Attempt(name="upgrade with the credential", presents="good"), settle_s=self.options.settle_s
            )
        if not base.accepted and base.first_byte_ms > SLOW_MS:
            # Every further request to so slow a server takes as long; two show whether the delay is constant.
            await self._try(Attempt(name="upgrade of a random path", random_path=True))
            await self._try(Attempt(name="upgrade again (2)", presents=best))
            return
        await self._try(Attempt(name="upgrade with a bad token", presents="bad"))
        origin = self.options.origin or self.target.origin
        await self._try(Attempt(name="upgrade with Origin", presents=best, origin=origin))
        await self._try(Attempt(name="upgrade of a random path", random_path=True))
        if base.accepted or first.accepted:
            await self._try(
                Attempt(name="upgrade with a 9 KB header", presents=best, large=True),
                timeout_s=self._large_head_s(base),
            )
        for number in range(REPEATS):
            await self._try(Attempt(name=f"upgrade again ({number + 2})", presents=best))
        for dial in self.seen.dials:
            if dial.outcome == "ok" and dial.address != self.address:
                await self._try(
                    Attempt(name=f"upgrade at {dial.address}", presents=best), address=dial.address
                )
        if self.options.thorough:
            await self._every_combination(best, self._large_head_s(base))

    def _large_head_s(self, base: HttpExchange) -> float:
        """How long an answer to a large head may take: some servers never give one (uvicorn), and others answer it
        as fast as a small one.
        """
        return min(self.options.timeout_s, max(MIN_LARGE_HEAD_S, 10 * base.first_byte_ms / 1000))

    async def _every_combination(self, best: Credential, large_head_s: float) -> None:
        origin = self.options.origin or self.target.origin
        credentials: tuple[Credential, ...] = ("none", "bad", "good") if best == "good" else ("none", "bad")
        no_yes = (False, True)
        for presents, with_origin, random_path, large in product(credentials, no_yes, no_yes, no_yes):
            if random_path and presents == "good":
                continue  # the user's credential and headers go to the user's path
            words = [presents, "Origin" * with_origin, "random" * random_path, "9 KB" * large]
            await self._try(
                Attempt(
                    name="upgrade: " + " ".join(filter(None, words)),
                    presents=presents,
                    origin=origin if with_origin else "",
                    random_path=random_path,
                    large=large,
                ),
                timeout_s=large_head_s if large else 0.0,
            )

    # -- more when it is a narthex -------------------------------------------------------------------------------

    async def _look_for_narthex(self) -> None:
        self.progress("is the server a narthex?")
        beacon = await find_beacon(self.line, self.address)
        if beacon is not None:
            self.routes = beacon.routes
            self._note(gateway=GatewayFacts(beacon=beacon.body))
            if not self.target.path_given:
                self.target = msgspec.structs.replace(self.target, path=endpoints.WEBSOCKET)
                self.line = self._line()
                self._note(url=self.target.shown)

    async def _json(self, name: str, attempt: Attempt | None = None) -> tuple[int, dict[str, object]]:
        """One of narthex' own routes; not kept among the exchanges."""
        asked = attempt or Attempt(name=name, upgrade=False, bare=True)
        path = f"{self.routes}/{name}"
        made = await exchange(self.line, self.address, msgspec.structs.replace(asked, path=path))
        return made.status, (json_object(made.body) if made.end == "response" else None) or {}

    async def _ask_narthex(self) -> None:
        assert self.seen.gateway is not None
        self.progress("health, config and preflight")
        status, health = await self._json("health")
        _, config = await self._json("config")
        best: Credential = "good" if self._has_credential else "none"
        _, verdict = await self._json("preflight", Attempt(name="preflight", upgrade=False, presents=best))
        _, bad = await self._json("preflight", Attempt(name="preflight", upgrade=False, presents="bad"))
        gateway = msgspec.structs.replace(
            self.seen.gateway,
            health_status=status,
            health=_part(
                health, ("status", "version", "environment", "checks", "errors", "e2e_testing", "config")
            ),
            config=_part(
                config, ("version", "environment", "url", "protocol", "paths", "carriers", "guests", "limits")
            ),
            preflight=_part(verdict, VERDICT),
            preflight_bad=_part(bad, VERDICT),
        )
        self._note(gateway=gateway)
        await self._try(Attempt(name="upgrade offering narthex.explain", explain=True))
        await self._try(
            Attempt(name="upgrade with a bad token as subprotocol", presents="bad", carrier="subprotocol")
        )
        if self.options.token:
            await self._try(
                Attempt(name="upgrade with the token as subprotocol", presents="good", carrier="subprotocol")
            )

    def _admitted(self) -> bool:
        """Whether a narthex admitted the user's credential."""
        admitted = any(made.opened and made.attempt.presents == "good" for made in self.seen.exchanges)
        return self.seen.gateway is not None and admitted

    def _may_talk(self) -> bool:
        """A conversation needs a chat: the messages behind a guard are another application's."""
        gateway = self.seen.gateway
        return gateway is not None and gateway.config.get("protocol") != "application" and self._admitted()

    async def _hold(self) -> None:
        opened = next((made for made in self.seen.exchanges if _holdable(made)), None)
        if opened is None or self.options.hold_s <= 0:
            return
        attempt = Attempt(name="hold", presents="good" if self._admitted() else "none")
        seconds = self.options.hold_s

        def tick(held_s: float) -> None:
            self.progress(f"holding: {held_s:.0f} of {seconds:g} s")

        self._note(
            holds=tuple(
                await hold(
                    self.line, self.address, attempt, seconds=seconds, connect=self._may_talk(), tick=tick
                )
            )
        )


def _holdable(made: HttpExchange) -> bool:
    return made.opened and not made.attempt.random_path and made.attempt.presents != "bad"


def _part(found: dict[str, object], names: tuple[str, ...]) -> dict[str, object]:
    return {name: found[name] for name in names if name in found}
