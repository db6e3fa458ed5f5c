"""Control messages between nodes: what this node does when one comes in.

Each only speeds up what the store already says, so a lost one delays and never loses (ports/broker). Kinds:
`revoke` (a credential), `disconnect` (a user or client), `subscribe` (a user or client to a thread),
`unsubscribe` (a user, one client of it, or everybody, from a channel), `run` and `runs_available` (the
engine's), `drain` (this node).
"""

from __future__ import annotations

from collections.abc import Callable

from narthex.app.commands.server_side import grant
from narthex.app.commands.subscribing import remove_server_side
from narthex.app.connection import Connection
from narthex.app.hub import Hub
from narthex.domain.channels import split_key
from narthex.errors import DependencyError
from narthex.ports.broker import Control
from narthex.protocol.codes import FORCED, Disconnect
from narthex.protocol.commands import SubscribeRequest

UNSUBSCRIBED_BY_SERVER = 2000  # Centrifuge's unsubscribe code: final, no resubscribe


class Controls:
    """Dispatches by kind; unknown kinds (of a newer version) are ignored and counted.

    Attributes:
        removals: how many `unsubscribe` messages came; whoever is about to subscribe looks whether it moved.
        on_late_removal: called for a removal from a thread that was sent again: the user may be a member once more, so
            the store is asked.
    """

    def __init__(
        self, connections_of: Callable[[str], list[Connection]], on_unknown: Callable[[str], None]
    ) -> None:
        self._connections_of = connections_of
        self._on_unknown = on_unknown
        self._hub: Hub | None = None
        self.removals = 0
        self.on_late_removal: Callable[[], None] = lambda: None
        self._handlers: dict[str, Callable[[Control], None]] = {
            "disconnect": self._disconnect,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
        }

    def bind(self, hub: Hub) -> None:
        """The hub whose subscribers can be unsubscribed (it is made with this object, hence the second step)."""
        self._hub = hub

    def missed(self) -> None:
        """Messages may have been lost: whoever is about to subscribe asks for the right to it again."""
        self.removals += 1

    def on(self, kind: str, handler: Callable[[Control], None]) -> None:
        """Register another component's kind. The handler must not block and must not raise."""
        self._handlers[kind] = handler

    def __call__(self, message: Control) -> None:
        """A control message came in."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            self._on_unknown(message.kind)
        else:
            handler(message)

    def _disconnect(self, message: Control) -> None:
        """`user` (tenant/subject), optionally one `client`, `code` and `reason`."""
        data = message.data
        code = int(str(data.get("code", FORCED.code)))
        reason = str(data.get("reason", FORCED.reason))
        for connection in self._connections_of(str(data["user"])):
            if data.get("client") in (None, "", connection.client):
                connection.close(Disconnect(code, reason))

    def _subscribe(self, message: Control) -> None:
        """`channel` key, `user` (tenant/subject), optionally one `client`, and `offset` and `epoch` to recover from."""
        data = message.data
        epoch = str(data.get("epoch", ""))
        request = SubscribeRequest(recover=bool(epoch), offset=int(str(data.get("offset", 0))), epoch=epoch)
        tenant, name = split_key(str(data["channel"]))
        for connection in self._connections_of(str(data["user"])):
            theirs = connection.identity is not None and connection.identity.tenant == tenant
            if not theirs or data.get("client") not in (None, "", connection.client):
                continue
            try:
                connection.services.tasks.spawn(grant(connection, name, request))
            except DependencyError:  # too much is under way here; the caller finds out by what its client has
                connection.services.meter.count("messages_ignored", reason="overloaded")

    def _unsubscribe(self, message: Control) -> None:
        """`channel` key, `user` (tenant/subject; empty: everybody), optionally one `client`; `stored`: the store says
        so too; `late`: sent again after the engine was away.
        """
        data = message.data
        self.removals += 1
        if data.get("stored") and data.get("late"):
            self.on_late_removal()
            return
        assert self._hub is not None
        user = str(data.get("user", ""))
        for subscriber in self._hub.subscribers(str(data["channel"])):
            if not isinstance(subscriber, Connection) or subscriber.known_identity is None:
                continue
            meant = data.get("client") in (None, "", subscriber.client)
            if meant and user in ("", subscriber.known_identity.user):
                name = str(data["channel"]).partition("/")[2]
                remove_server_side(
                    subscriber, name, UNSUBSCRIBED_BY_SERVER, "the server ended the subscription"
                )
