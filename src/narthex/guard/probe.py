"""The handshake check of a guard's health.

Without a probe of the application's it asks for two decisions, with a ticket and without a credential, and says that
the endpoint itself was not checked. With one it connects over loopback, as a client, and lets the probe use the
connection. Not here: health's rules (`app/health`). One deadline (health's) bounds all of it.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Awaitable, Callable
from typing import Final, cast

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from narthex.adapters.edge.self_probe import probe_connection
from narthex.app.health import CheckFailed, issue_probe_ticket
from narthex.domain.identity import PROBE_QUERY
from narthex.guard.core import GuardCore
from narthex.guard.sockets import GuardedSocket
from narthex.ports.edge import Accept, Decision, RequestHead
from narthex.ports.later import settled
from narthex.protocol.codes import NORMAL

Probe = Callable[[ClientConnection], Awaitable[None]]
"""Uses a connection to the application's endpoint as a client does; raises when the endpoint does not work."""

LOOPBACK: Final = "127.0.0.1"
MAX_MESSAGE: Final = 1024 * 1024  # of the application, which the probe reads


class HandshakeCheck:
    """A `Check` of `app.health`.

    Args:
        core: the guard's.
        path: of the endpoint.
        probe: see `Probe`.

    Attributes:
        address: the server's host and port, None until a request has shown them.
        secure: whether the server itself ends TLS.
    """

    def __init__(self, core: GuardCore, path: str, probe: Probe | None) -> None:
        self._core = core
        self._path = path
        self._probe = probe
        self.address: tuple[str, int] | None = None
        self.secure = False

    async def __call__(self) -> str:
        """Returns a description; raises CheckFailed."""
        ticket = secrets.token_urlsafe(24)
        await issue_probe_ticket(self._core.store.credentials, ticket, self._core.now())
        if self._probe is None:
            await self._decide(f"ticket={ticket}", admits=True)
        elif self.address is None:
            raise CheckFailed("the server does not say where it listens, so that the probe cannot connect")
        else:
            await self._connect(self._probe, ticket, self.address)
        await self._decide(PROBE_QUERY, admits=not self._core.policy.pre_connection_auth_required)
        if self._probe is None:
            return "admission with a ticket and without; the endpoint was not checked (Guard has no probe)"
        return "the endpoint answered the probe with a ticket; admission without"

    async def _decide(self, query: str, *, admits: bool) -> None:
        head = RequestHead(
            method="GET", path=self._path, query=query, headers=[("host", "localhost")], peer=(LOOPBACK, 0)
        )
        decision: Decision = await settled(self._core.handshakes.decide(head))
        if isinstance(decision, Accept):
            cast("GuardedSocket", decision.receiver).life.ended(NORMAL.code)
            if not admits:
                raise CheckFailed("a connection without a credential would be upgraded")
        elif admits or decision.refusal.code != "auth_required":
            raise CheckFailed(f"a handshake was refused: {decision.refusal.code}")

    async def _connect(self, probe: Probe, ticket: str, address: tuple[str, int]) -> None:
        context: ssl.SSLContext | None = None
        if self.secure:  # the certificate names the public host, and this connection stays on the machine
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            async with probe_connection(
                address, f"{self._path}?ticket={ticket}", max_size=MAX_MESSAGE, tls=context
            ) as socket:
                await probe(socket)
        except InvalidStatus as error:
            raise CheckFailed(f"the upgrade was refused with status {error.response.status_code}") from None
        except ConnectionClosed as error:
            code = error.rcvd.code if error.rcvd is not None else 1006
            raise CheckFailed(f"the endpoint closed the probe's connection with {code}") from None
        except (InvalidHandshake, OSError) as error:
            raise CheckFailed(f"no handshake over loopback ({type(error).__name__})") from error
        except AssertionError as error:
            raise CheckFailed("the endpoint did not answer as the probe expects") from error
