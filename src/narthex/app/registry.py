"""Live connections of this node: all of them, and by user, to find, notify or close them.

It counts live sockets, never objects that code forgot to release. Limits are not here (app/connection_limits). Rule:
connections are returned in order of arrival, so that an operation on all of them has one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from narthex.app.connection_context import ConnectionContext
from narthex.domain.identity import Identity, IdentityClass
from narthex.protocol.codes import Disconnect

_PEOPLE: Final = (IdentityClass.USER, IdentityClass.GUEST)


class LiveConnection(Protocol):
    """A counted connection: `app.connection.Connection`, or a socket that a guard admitted to another application."""

    @property
    def context(self) -> ConnectionContext:
        """The start of the connection, with its current user."""

    @property
    def identity(self) -> Identity | None:
        """Its user, None while that is not known."""

    @property
    def known_identity(self) -> Identity | None:
        """Its user, also while its `connect` is being answered."""

    def close(self, disconnect: Disconnect) -> None:
        """Close it with a code and a reason; idempotent."""


C = TypeVar("C", bound=LiveConnection)


class ConnectionRegistry(Generic[C]):
    """Sets of live connections."""

    __slots__ = ("_all", "_by_user")

    def __init__(self) -> None:
        self._all: dict[C, None] = {}
        self._by_user: dict[str, dict[C, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[C]:
        return iter(list(self._all))

    def add(self, connection: C) -> None:
        """Add an opened connection; its user may be unknown yet."""
        self._all[connection] = None

    def identify(self, connection: C, user: str) -> None:
        """Set the connection's user: `Identity.user`."""
        self._by_user.setdefault(user, {})[connection] = None

    def of_user(self, user: str) -> list[C]:
        """Live connections of `Identity.user`."""
        return list(self._by_user.get(user, ()))

    def users(self) -> int:
        """The number of distinct users connected here."""
        return len(self._by_user)

    def has_users(self) -> bool:
        """Whether a user or a guest is connected: no test identity, no probe."""
        return any(
            identity is not None and identity.identity_class in _PEOPLE
            for connections in self._by_user.values()
            for identity in (connection.identity for connection in connections)
        )

    def remove(self, connection: C) -> None:
        """Remove a closed connection; idempotent."""
        self._all.pop(connection, None)
        identity = connection.identity
        if identity is not None and (found := self._by_user.get(identity.user)) is not None:
            found.pop(connection, None)
            if not found:
                del self._by_user[identity.user]
