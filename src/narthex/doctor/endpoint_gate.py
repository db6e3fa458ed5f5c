"""The deploy gate of a socket that is not a narthex chat: an application's own endpoint behind a guard.

Not here: the checks that it shares with a chat's gate, and the deadline (`gate`). Rules: the application's messages are
its own: nothing is sent to it but pings, and the text of `--send`, once.
"""

from __future__ import annotations

import statistics
import time
from typing import Final

from narthex.doctor import dialing
from narthex.doctor.beacons import find_beacon
from narthex.doctor.documents import json_object
from narthex.doctor.exchanging import exchange, open_socket
from narthex.doctor.gate import HANDSHAKES, Checks, Gate, GateOptions, GateReport, Progress, examine_gate
from narthex.doctor.holding import hold
from narthex.doctor.live import LiveSocket
from narthex.doctor.observations import Attempt, HttpExchange
from narthex.doctor.target import Target
from narthex.domain.endpoints import GUARD_PREFIX

FOREIGN_ORIGIN: Final = "https://narthex-gate.invalid"  # RFC 2606: no page has this origin
IN_BAND_S: Final = 15.0  # an endpoint that takes its proof in the first message waits 10 s for it
MAX_HOLD_S: Final = 30.0  # with the other checks below the gate's deadline


async def examine_endpoint(
    target: Target, options: GateOptions, progress: Progress = lambda _: None
) -> GateReport:
    """Run every check; never raises, whatever the deployed system does."""
    return await examine_gate(target, options, progress, gate=EndpointGate)


class EndpointGate(Gate):
    """See the module."""

    _routes = GUARD_PREFIX
    _found = False

    def checks(self) -> Checks:
        """The checks, in order."""
        told = bool(self.options.send or self.options.expect)
        return (
            ("health", self.healthy),
            ("auth_bypass_active", self.bypass),
            ("refused without a token", self.refused),
            ("bad token refused", self.bad_token),
            ("foreign Origin refused", self._foreign_origin),
            ("admitted with the token", self._opened),
            *((("exchange", self._exchanged),) if told else ()),
            *((("hold", self._held),) if self.options.hold_s else ()),
        )

    def route(self, name: str) -> str:
        """The path of one of the guard's own routes."""
        return f"{self._routes}/{name}"

    async def application(self) -> bool:
        """Find the guard's routes. The profile fits any endpoint."""
        self._routes = self.options.prefix.rstrip("/")
        if not self._routes:
            beacon = await find_beacon(self.line, self.address)
            self._found = beacon is not None
            self._routes = GUARD_PREFIX if beacon is None else beacon.routes
        return False

    async def healthy(self) -> tuple[bool, str]:
        """Health; where it was not found, how to name its place."""
        ok, detail = await super().healthy()
        if ok or self._found or "status" in self.health:
            return ok, detail
        tried = ", ".join(self.target.route_paths("beacon"))
        return False, (
            f"{detail} at {self.route('health')}; no guard answered at {tried} either. "
            "Give --prefix: the `prefix` of narthex.Guard, below the prefix of a proxy or mount"
        )

    # -- admission ----------------------------------------------------------------------------------------------

    async def refused(self) -> tuple[bool, str]:
        """A handshake without a credential is refused, or its socket can do nothing."""
        made = await exchange(self.line, self.address, Attempt(name="no token"), settle_s=0.2)
        if made.accepted:
            return await self._closed_unproven()
        code = await self._code(made)
        return made.status in (401, 403), self._shown(made, code)

    async def _closed_unproven(self) -> tuple[bool, str]:
        """A socket whose proof is its first message gets nothing from the application, and is closed without one."""
        socket = await open_socket(self.line, self.address, Attempt(name="no token"))
        try:
            message = await socket.receive(IN_BAND_S)
        finally:
            await socket.leave()
        if message is not None:
            return False, "the application sent a message to a socket without a credential"
        if socket.close is None:
            return False, f"a socket without a credential stayed open for {IN_BAND_S:g} s"
        return (
            True,
            f"upgraded, and closed without a proof: {socket.close.code} {socket.close.reason}".strip(),
        )

    async def bad_token(self) -> tuple[bool, str]:
        """A made-up token is refused as such."""
        made = await exchange(self.line, self.address, Attempt(name="bad token", presents="bad"))
        code = await self._code(made)
        return made.status == 401 or (made.status == 403 and code.startswith("token_")), self._shown(
            made, code
        )

    async def _foreign_origin(self) -> tuple[bool, str]:
        attempt = Attempt(name="foreign Origin", presents="good", origin=FOREIGN_ORIGIN)
        made = await exchange(self.line, self.address, attempt)
        code = await self._code(made)
        if made.accepted:
            return False, "a page of a foreign site was admitted with the user's credential"
        return made.status == 403 and code == "origin_not_allowed", self._shown(made, code)

    async def _code(self, made: HttpExchange) -> str:
        """The refusal's code; where the answer carries none (daphne), that of preflight for the same request."""
        code = (json_object(made.body) or {}).get("code")
        if not isinstance(code, str) and made.status == 403:
            _, verdict = await self.get("preflight", made.attempt)
            code = verdict.get("code")
        return code if isinstance(code, str) else ""

    @staticmethod
    def _shown(made: HttpExchange, code: str) -> str:
        return f"HTTP {made.status or made.end} {code}".strip()

    # -- the socket ---------------------------------------------------------------------------------------------

    async def _socket(self) -> LiveSocket:
        return await open_socket(self.line, self.address, Attempt(name="socket", presents="good"))

    async def _opened(self) -> tuple[bool, str]:
        handshakes, pongs = [], []
        for _ in range(HANDSHAKES):
            began = time.perf_counter()
            socket = await self._socket()
            handshakes.append(dialing.elapsed_ms(began))
            try:
                socket.ping()
                await socket.until(lambda: socket.pong_ms is not None, self.line.timeout_s)  # noqa: B023 - awaited here
                if socket.pong_ms is None:
                    return False, f"upgraded, and {_end(socket, 'no pong')}"
                pongs.append(socket.pong_ms)
            finally:
                await socket.leave()
        self.figures["handshake_ms"] = round(statistics.median(handshakes), 2)
        self.figures["pong_ms"] = round(statistics.median(pongs), 2)
        return True, f"opened in {self.figures['handshake_ms']:g} ms, pong {self.figures['pong_ms']:g} ms"

    async def _exchanged(self) -> tuple[bool, str]:
        socket = await self._socket()
        try:
            began = time.perf_counter()
            if self.options.send:
                socket.send(self.options.send.encode())
            received = 0
            while (left_s := began + self.line.timeout_s - time.perf_counter()) > 0:
                message = await socket.receive(left_s)
                if message is None:
                    break
                received += 1
                if self.options.expect in message:
                    self.figures["exchange_ms"] = dialing.elapsed_ms(began)
                    return True, f"answered in {self.figures['exchange_ms']:g} ms"
            return (
                False,
                f"{received} messages, none of them as expected; {_end(socket, 'none more in time')}",
            )
        finally:
            await socket.leave()

    async def _held(self) -> tuple[bool, str]:
        seconds = self.options.hold_s
        attempt = Attempt(name="hold", presents="good")
        held = await hold(
            self.line, self.address, attempt, seconds=seconds, connect=False, tick=lambda _: None
        )
        for one in held:
            if one.ended != "held":
                close = f" {one.close.code} {one.close.reason}".rstrip() if one.close else ""
                kind = "a socket that pings" if one.pings else "a quiet socket"
                return False, f"{kind} ended after {one.lived_s:g} s: {one.ended}{close}"
        return True, f"{len(held)} sockets stayed open for {seconds:g} s"


def _end(socket: LiveSocket, otherwise: str) -> str:
    if socket.close is not None:
        return f"closed {socket.close.code} {socket.close.reason}".strip()
    return "the socket ended" if socket.ended else otherwise
