"""Control messages about connections: `disconnect`, `subscribe`, `unsubscribe`, and recovery when some were lost.

Not here: the table of kinds (`controls`), the senders (`app/chat`, `app/memberships`, the server API).
"""

from __future__ import annotations

import asyncio
from typing import Final

from narthex.app.commands.server_side import ServerSubscriptions
from narthex.app.commands.subscribing import Subscriptions
from narthex.app.connection import Connection
from narthex.app.controls import ControlDispatcher
from narthex.app.drain import close_paced
from narthex.app.hub import Hub
from narthex.app.membership_audit import MembershipAudit
from narthex.app.registry import ConnectionRegistry
from narthex.app.tasks import Tasks
from narthex.domain.channels import split_key
from narthex.errors import DependencyError
from narthex.ports.broker import Control
from narthex.ports.telemetry import Meter
from narthex.protocol.codes import FORCE_RECONNECT, FORCED, Disconnect
from narthex.protocol.commands import SubscribeRequest

LOST_WITHIN_S: Final = 2.5  # with the 2.5 s in which a node finds out, the 5 s of docs/guarantees.md


class ConnectionControls:
    """See the module. Registers its handlers with `controls`.

    Args:
        controls: dispatches.
        registry: the live connections.
        hub: knows the subscribers of a channel.
        subscriptions: ends them.
        server_side: grants them.
        membership_audit: compares subscriptions with the store's members.
        tasks: own work that has to wait.
        meter: counts failed messages.
    """

    def __init__(
        self,
        controls: ControlDispatcher,
        registry: ConnectionRegistry[Connection],
        hub: Hub,
        subscriptions: Subscriptions,
        server_side: ServerSubscriptions,
        membership_audit: MembershipAudit,
        tasks: Tasks,
        meter: Meter,
    ) -> None:
        self._controls = controls
        self._registry = registry
        self._hub = hub
        self._subscriptions = subscriptions
        self._server_side = server_side
        self._membership_audit = membership_audit
        self._tasks = tasks
        self._meter = meter
        controls.on("disconnect", self._disconnect)
        controls.on("subscribe", self._subscribe)
        controls.on("unsubscribe", self._unsubscribe)

    def lost(self) -> None:
        """Messages are lost for good, maybe a `disconnect`: every connection must reconnect and is admitted again. All
        nodes come here at the same moment, so the closes are paced.
        """
        self._controls.missed()
        present = list(self._registry)
        try:
            self._tasks.spawn(self._reconnect(present))
        except DependencyError:
            for connection in present:
                connection.close(FORCE_RECONNECT)

    @staticmethod
    async def _reconnect(present: list[Connection]) -> None:
        await close_paced(
            present,
            lambda _: False,
            grace_s=LOST_WITHIN_S,
            runs_ended=asyncio.Event(),
            now=asyncio.get_running_loop().time,
            disconnect=FORCE_RECONNECT,
        )

    def _disconnect(self, message: Control) -> None:
        """`user` (tenant/subject), optionally one `client`, `code` and `reason`."""
        data = message.data
        code = int(str(data.get("code", FORCED.code)))
        reason = str(data.get("reason", FORCED.reason))
        for connection in self._registry.of_user(str(data["user"])):
            if data.get("client") in (None, "", connection.client):
                connection.close(Disconnect(code, reason))

    def _subscribe(self, message: Control) -> None:
        """`channel` key, `user` (tenant/subject), optionally one `client`, and `offset` and `epoch` to recover from."""
        data = message.data
        epoch = str(data.get("epoch", ""))
        request = SubscribeRequest(recover=bool(epoch), offset=int(str(data.get("offset", 0))), epoch=epoch)
        tenant, name = split_key(str(data["channel"]))
        for connection in self._registry.of_user(str(data["user"])):
            theirs = connection.identity is not None and connection.identity.tenant == tenant
            if not theirs or data.get("client") not in (None, "", connection.client):
                continue
            try:
                self._tasks.spawn(self._server_side.grant(connection, name, request))
            except DependencyError:  # overloaded; the caller finds out by the client's subscriptions
                self._meter.count("messages_ignored", reason="overloaded")

    def _unsubscribe(self, message: Control) -> None:
        """`channel` key, `user` (tenant/subject; empty: all), optionally one `client`; `stored`: the store agrees;
        `late`: sent again after the engine was down, so the user may be a member once more.
        """
        data = message.data
        self._subscriptions.doubt()
        if data.get("stored") and data.get("late"):
            self._membership_audit.schedule()
            return
        user = str(data.get("user", ""))
        for subscriber in self._hub.subscribers(str(data["channel"])):
            if not isinstance(subscriber, Connection) or subscriber.known_identity is None:
                continue
            meant = data.get("client") in (None, "", subscriber.client)
            if meant and user in ("", subscriber.known_identity.user):
                name = str(data["channel"]).partition("/")[2]
                self._subscriptions.remove(subscriber, name)
