"""Lists the connections of all processes, each with its user, process, start, client and lag.

Not here: asking the processes (`questions`), closing connections (`app/connection_controls`). Rules: newest first, in
pages of at most `MAX_PAGE`; an entry has the class of the address, not the address; of a long list of subscriptions
the first `SHOWN_SUBSCRIPTIONS` are listed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import msgspec

from narthex.app.connection import Connection
from narthex.app.fleet.questions import Data, FleetQuestions
from narthex.app.fleet.view import FleetView
from narthex.domain.addresses import address_class
from narthex.domain.ids import user_key

MAX_PAGE: Final = 200
SHOWN_SUBSCRIPTIONS: Final = 20
SUBJECT: Final = "connections"


class ConnectionFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which connections are listed; an empty member is any. `slow`: only clients that do not keep up."""

    user: str = ""
    tenant: str = ""
    traffic: str = ""
    plan: str = ""
    node: str = ""
    client: str = ""
    slow: bool = False


class ConnectionEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One connection.

    Attributes:
        client: the connection's id.
        since: seconds since the epoch.
        user: the subject; empty while the connection is not proven.
        traffic: class of the identity: user, guest or e2e.
        library: name and version of the client's library, as it said.
        address: class of the client's address.
        pending_bytes: kept here because the client does not read as fast as the server writes.
        subscriptions: the first channels.
        subscription_count: of all of them.
        trace_id: of its handshake.
    """

    client: str
    node: str
    since: float
    user: str = ""
    tenant: str = ""
    name: str = ""
    plan: str = ""
    traffic: str = "user"
    transport: str = ""
    library: str = ""
    address: str = ""
    slow: bool = False
    pending_bytes: int = 0
    subscriptions: list[str] = []
    subscription_count: int = 0
    expires_at: float | None = None
    trace_id: str = ""


class ConnectionPage(msgspec.Struct, kw_only=True):
    """A page of the list. `next` asks for the following page, empty at the end; `missing` did not answer."""

    connections: list[ConnectionEntry]
    next: str = ""
    missing: list[str] = []


class ConnectionLists:
    """See the module.

    Args:
        node: this node's id.
        connections: the live ones of this process.
        of_user: those of `Identity.user`.
        view: names the processes.
        questions: asks them.
    """

    def __init__(
        self,
        node: str,
        connections: Iterable[Connection],
        of_user: Callable[[str], list[Connection]],
        view: FleetView,
        questions: FleetQuestions,
    ) -> None:
        self._node = node
        self._connections = connections
        self._of_user = of_user
        self._view = view
        self._questions = questions
        questions.on(SUBJECT, self._answer)

    async def page(self, wanted: ConnectionFilter, before: str, limit: int) -> ConnectionPage:
        """A page of all processes' connections.

        Args:
            wanted: the filter.
            before: `next` of the page before, or empty.
            limit: of entries, at most `MAX_PAGE`.

        Raises:
            DependencyError: the broker takes no question.
        """
        limit = max(1, min(limit, MAX_PAGE))
        data: Data = {"filter": msgspec.to_builtins(wanted), "before": before, "limit": limit + 1}
        nodes = {
            member.snapshot.node
            for member in self._view.members()
            if _serves(member.snapshot.kind, member.status)
        }
        nodes = (nodes | {self._node}) if not wanted.node else {wanted.node}
        found = await self._questions.ask(SUBJECT, data, nodes)
        entries = msgspec.convert(
            [entry for answer in found.by_node.values() for entry in _listed(answer)], list[ConnectionEntry]
        )
        entries.sort(key=_place, reverse=True)
        more = len(entries) > limit
        del entries[limit:]
        return ConnectionPage(
            connections=entries, next=_cursor(entries[-1]) if more else "", missing=found.missing
        )

    def _answer(self, data: Data) -> Data:
        """This process's entries, to a question of another process or of `page`."""
        wanted = msgspec.convert(data["filter"], ConnectionFilter)
        before = _read_cursor(str(data["before"]))
        candidates: Iterable[Connection] = self._connections
        if wanted.user and wanted.tenant:
            candidates = self._of_user(user_key(wanted.tenant, wanted.user))
        fitting = (
            connection
            for connection in candidates
            if (before is None or _place_of(connection) < before) and _fits(connection, wanted)
        )
        newest = heapq.nlargest(int(str(data["limit"])), fitting, key=_place_of)
        return {"connections": [msgspec.to_builtins(self._entry(connection)) for connection in newest]}

    def _entry(self, connection: Connection) -> ConnectionEntry:
        context, identity = connection.context, connection.known_identity
        return ConnectionEntry(
            client=connection.client,
            node=self._node,
            since=context.started_at,
            user=identity.subject if identity else "",
            tenant=identity.tenant if identity else "",
            name=identity.name if identity else "",
            plan=identity.plan if identity else "",
            traffic=context.slot.traffic,
            transport=context.transport,
            library=context.library,
            address=address_class(context.address),
            slow=connection.lagging,
            pending_bytes=connection.pending_bytes,
            subscriptions=list(islice(connection.subscriptions, SHOWN_SUBSCRIPTIONS)),
            subscription_count=len(connection.subscriptions),
            expires_at=identity.expires_at if identity else None,
            trace_id=context.trace_id,
        )


def _serves(kind: str, status: str) -> bool:
    return kind == "gateway" and status == "up"


def _listed(answer: Data) -> list[Any]:
    found = answer.get("connections")
    return found if isinstance(found, list) else []


def _fits(connection: Connection, wanted: ConnectionFilter) -> bool:
    identity = connection.known_identity
    if not connection.context.slot.traffic:  # health's own
        return False
    return (
        (not wanted.user or (identity is not None and identity.subject == wanted.user))
        and (not wanted.tenant or (identity is not None and identity.tenant == wanted.tenant))
        and (not wanted.traffic or connection.context.slot.traffic == wanted.traffic)
        and (not wanted.plan or (identity is not None and identity.plan == wanted.plan))
        and (not wanted.client or connection.client == wanted.client)
        and (not wanted.slow or connection.lagging)
    )


def _place_of(connection: Connection) -> tuple[float, str]:
    return connection.context.started_at, connection.client


def _place(entry: ConnectionEntry) -> tuple[float, str]:
    return entry.since, entry.client


def _cursor(entry: ConnectionEntry) -> str:
    return f"{entry.since!r}~{entry.client}"


def _read_cursor(text: str) -> tuple[float, str] | None:
    moment, _, client = text.partition("~")
    try:
        return (float(moment), client) if client else None
    except ValueError:
        return None
