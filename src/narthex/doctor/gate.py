"""The deploy gate: decides whether a new deployment may take traffic. Checks of a narthex, each with a reason.

Not here: the checks of an application's own endpoint (`endpoint_gate`), printing (`narthex.cli.gate`), the cause of a
fault (`diagnosis`; the gate points to `narthex doctor`). Rules: every check is about an answer of the deployed system;
all of them end within one deadline under 60 s; a check that could not be made has failed.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from narthex.doctor import baseline, dialing
from narthex.doctor.conversation import NarthexSockets, StepFailed, Wire
from narthex.doctor.documents import json_object, member
from narthex.doctor.exchanging import Line, Secrets, UpgradeFailed, exchange, open_socket
from narthex.doctor.observations import Attempt, HttpExchange
from narthex.doctor.runs import follow_run
from narthex.doctor.target import Target
from narthex.domain import endpoints

APPLICATION: Final = "application"  # `protocol` of a guard's config (`guard/routes.py`)
DEADLINE_S: Final = 55.0  # under the minute that pipelines are promised
ECHOES: Final = 20
HANDSHAKES: Final = 3

Progress = Callable[[str], None]
Checks = tuple[tuple[str, Callable[[], Awaitable[tuple[bool, str]]]], ...]
"""Names, and functions that return whether the check passed and what was observed."""


class GateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of the gate.

    Attributes:
        expect_bypass: required value of `auth_bypass_active`.
        text: message to the agent.
        allow_degraded: whether health `degraded` passes.
        factor: how many times slower than the baseline is too slow.
        hold_s: how long sockets of an endpoint must stay open; 0: not checked.
        send: text to send to an endpoint; empty: nothing.
        expect: text that one of its messages must contain afterwards; empty: any.
        prefix: path of the guard's own routes; empty: they are looked for.
    """

    token: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    expect_bypass: bool = False
    text: str = "hello"
    allow_degraded: bool = False
    timeout_s: float = 5.0
    ca_file: str = ""
    against: baseline.Baseline | None = None
    factor: float = 1.5
    hold_s: float = 10.0
    send: str = ""
    expect: str = ""
    prefix: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check: `detail` describes the observation."""

    name: str
    ok: bool
    detail: str
    ms: float = 0.0


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All checks, and the figures that a baseline is made of."""

    url: str
    reachable: bool
    checks: tuple[Check, ...]
    figures: dict[str, float]
    version: str = ""
    environment: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether all passed."""
        return bool(self.checks) and all(check.ok for check in self.checks)


async def examine_gate(
    target: Target,
    options: GateOptions,
    progress: Progress = lambda _: None,
    gate: type[Gate] | None = None,
) -> GateReport:
    """Run every check of a chat, or those of `gate`; never raises, whatever the deployed system does."""
    checks = (gate or Gate)(target, options, progress)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await checks.run()
    except TimeoutError:
        checks.note("deadline", False, f"not done within {DEADLINE_S:g} s")
    return checks.report(round(time.perf_counter() - began, 2))


class Gate:
    """The checks of a chat, and what every gate has in common."""

    def __init__(self, target: Target, options: GateOptions, progress: Progress) -> None:
        if not target.path_given:
            target = msgspec.structs.replace(target, path=endpoints.WEBSOCKET)
        self.target = target
        self.options = options
        self.progress = progress
        self.line = Line(
            target,
            Secrets(options.token, options.headers),
            timeout_s=options.timeout_s,
            ca_file=options.ca_file,
        )
        self.address = ""
        self.done: list[Check] = []
        self.figures: dict[str, float] = {}
        self.health: dict[str, Any] = {}
        self._began = time.perf_counter()

    def report(self, seconds: float) -> GateReport:
        """The checks so far."""
        return GateReport(
            url=self.target.shown,
            reachable=bool(self.address),
            checks=tuple(self.done),
            figures=self.figures,
            version=str(self.health.get("version", "")),
            environment=str(self.health.get("environment", "")),
            seconds=seconds,
        )

    def note(self, name: str, ok: bool, detail: str) -> None:
        """Add the result of a check."""
        self.done.append(
            Check(
                name=name, ok=ok, detail=self.line.secrets.scrub(detail), ms=dialing.elapsed_ms(self._began)
            )
        )
        self._began = time.perf_counter()

    def checks(self) -> Checks:
        """The checks, in order."""
        return (
            ("health", self.healthy),
            ("auth_bypass_active", self.bypass),
            ("refused without a token", self.refused),
            ("bad token refused", self.bad_token),
            ("admitted with the token", self._admitted),
            ("run", partial(self._followed, drop=False)),
            ("drop and resume", partial(self._followed, drop=True)),
        )

    async def run(self) -> None:
        """Run them."""
        if not await self._reach():
            return
        if await self.application():
            self.note("profile", False, "the socket is an application's own: give --profile endpoint")
            return
        for name, check in self.checks():
            self.progress(name)
            await self._checked(name, check)
        self._compare()

    async def _checked(self, name: str, check: Callable[[], Awaitable[tuple[bool, str]]]) -> None:
        self._began = time.perf_counter()
        try:
            ok, detail = await check()
        except (StepFailed, UpgradeFailed) as error:
            ok, detail = False, str(error)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The events come from the deployed system: an invalid one must fail the gate, not crash it.
            ok, detail = False, f"an invalid event ({type(error).__name__})"
        self.note(name, ok, detail)

    async def _reach(self) -> bool:
        lookup = await dialing.look_up(self.target, self.options.timeout_s)
        for address in lookup.addresses:
            dialled = await dialing.dial(self.target, address, self.options.timeout_s)
            if dialled.outcome == "ok":
                self.address = address
                return True
        detail = lookup.error or "no address accepts a connection"
        self.note("reachable", False, f"{detail}; narthex doctor finds the cause")
        return False

    # -- health -------------------------------------------------------------------------------------------------

    def route(self, name: str) -> str:
        """The path of one of the system's own routes."""
        return self.target.beside(name)

    async def get(self, name: str, attempt: Attempt | None = None) -> tuple[HttpExchange, dict[str, Any]]:
        """One of these routes, asked as `attempt` asks for a socket; its answer as JSON."""
        asked = attempt or Attempt(name=name)
        asked = msgspec.structs.replace(asked, upgrade=False, path=self.route(name))
        made = await exchange(self.line, self.address, asked)
        return made, json_object(made.body) or {}

    async def application(self) -> bool:
        """Whether the messages on the socket are another application's (docs/guard.md)."""
        _, config = await self.get("config")
        return config.get("protocol") == APPLICATION

    async def healthy(self) -> tuple[bool, str]:
        """Health, and its failing checks."""
        made, self.health = await self.get("health")
        status = self.health.get("status")
        failing = [
            name
            for name, check in member(self.health, "checks").items()
            if isinstance(check, dict) and check.get("status") != "healthy"
        ]
        detail = f"HTTP {made.status or made.end}, {status or 'no status'}"
        if failing:
            detail += f": {', '.join(failing)}"
        good = status == "healthy" or (status == "degraded" and self.options.allow_degraded)
        return made.status == 200 and good, detail

    async def bypass(self) -> tuple[bool, str]:
        """`auth_bypass_active` is as expected."""
        e2e = member(self.health, "e2e_testing")
        active = e2e.get("auth_bypass_active")
        if not isinstance(active, bool):
            return False, "/ws/health does not report it"
        expected = self.options.expect_bypass
        reason = e2e.get("reason", "")
        detail = f"{active}, expected {expected}".lower() + (f" ({reason})" if reason else "")
        return active is expected, detail

    # -- admission ----------------------------------------------------------------------------------------------

    async def refused(self) -> tuple[bool, str]:
        """A socket without a credential is refused, or can do nothing."""
        made = await exchange(self.line, self.address, Attempt(name="no token"), settle_s=0.2)
        if made.status in (401, 403):
            return True, f"HTTP {made.status}"
        if not made.accepted:
            return False, f"expected a refusal with a reason, got {made.status or made.end}"
        _, config = await self.get("config")
        if config.get("guests") is True and config.get("environment") in ("development", "testing"):
            return True, "guests are admitted here by configuration"
        return await self._inert()

    async def _inert(self) -> tuple[bool, str]:
        """Check that a socket which was upgraded without a credential can do nothing."""
        socket = await open_socket(self.line, self.address, Attempt(name="no token"))
        try:
            wire = Wire(socket, self.line.timeout_s)
            await wire.ask("connect")
        except StepFailed as error:
            return True, f"upgraded and inert: {error}"
        finally:
            await socket.leave()
        return False, "a socket without a credential was connected"

    async def bad_token(self) -> tuple[bool, str]:
        """A made-up token is refused as such."""
        made = await exchange(self.line, self.address, Attempt(name="bad token", presents="bad"))
        if made.status == 401:
            return True, "HTTP 401"
        return False, f"a made-up token got {made.status or made.end}, not 401"

    async def _admitted(self) -> tuple[bool, str]:
        connections = NarthexSockets(self.line, self.address)
        try:
            times = []
            for _ in range(HANDSHAKES):
                began = time.perf_counter()
                wire, _ = await connections.connect()
                times.append(dialing.elapsed_ms(began))
            self.figures["connect_ms"] = round(statistics.median(times), 2)
            echoes = []
            for number in range(ECHOES):
                began = time.perf_counter()
                if (await wire.rpc("echo", number=number)).get("number") != number:
                    return False, "an echo came back changed"
                echoes.append(dialing.elapsed_ms(began))
            self.figures["echo_ms"] = round(statistics.median(echoes), 2)
        finally:
            await connections.end()
        return True, f"connected in {self.figures['connect_ms']:g} ms, echo {self.figures['echo_ms']:g} ms"

    # -- behaviour ----------------------------------------------------------------------------------------------

    async def _followed(self, *, drop: bool) -> tuple[bool, str]:
        connections = NarthexSockets(self.line, self.address)
        try:
            seen = await follow_run(connections, self.options.text, drop=drop, timeout_s=20.0)
        finally:
            await connections.end()
        if not drop:
            self.figures["first_event_ms"] = seen.first_event_ms
            self.figures["run_ms"] = seen.total_ms
        if not seen.complete:
            return False, f"not complete: {seen.reason}"
        if seen.outcome != "success":
            return False, f"the run ended with {seen.outcome}"
        return True, f"{seen.events} events, digest verified, {seen.total_ms:g} ms"

    def _compare(self) -> None:
        if self.options.against is None:
            return
        self._began = time.perf_counter()
        slow = baseline.slower(self.figures, self.options.against, self.options.factor)
        missing = sorted(set(self.options.against.figures) - set(self.figures))
        detail = "; ".join([*slow, *(f"{name} was not measured" for name in missing)])
        self.note("latency", not detail, detail or f"within {self.options.factor:g} × the baseline")
