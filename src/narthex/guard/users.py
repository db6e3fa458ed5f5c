"""The user of a guarded connection, for the application's handlers.

    user = narthex.identity(websocket)      # Starlette, FastAPI, Quart, a Channels consumer, or the bare ASGI scope
    user: Annotated[narthex.Identity, Depends(narthex.current_identity)]      # a parameter of a FastAPI endpoint

Rules: only the guard puts the user into a scope; a fresh token changes it for every reader at once.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import HTTPConnection

from narthex.app.connection_context import ConnectionContext
from narthex.domain.identity import Identity, IdentityClass
from narthex.errors import Bug

SCOPE_KEY: Final = "narthex"
"""The scope's member that holds the guard's socket."""


class GuardedUser:
    """`scope["user"]` and `scope["auth"]`: the attributes that Channels, Django and Starlette read.

    Attributes:
        is_active: always.
        is_staff: never: the guard knows nothing of an application's staff.
        is_superuser: never, likewise.
    """

    # Channels' AuthMiddleware assigns `_wrapped` to any user that it finds; it has no effect here.
    __slots__ = ("_context", "_wrapped")

    is_active: Final = True
    is_staff: Final = False
    is_superuser: Final = False

    def __init__(self, context: ConnectionContext) -> None:
        self._context = context

    @property
    def _identity(self) -> Identity:
        assert self._context.identity is not None  # an application gets no scope before the proof
        return self._context.identity

    @property
    def is_authenticated(self) -> bool:
        """Whether it is a user with a credential, and no guest."""
        return self._identity.identity_class is not IdentityClass.GUEST

    @property
    def is_anonymous(self) -> bool:
        """Whether it is a guest."""
        return not self.is_authenticated

    @property
    def scopes(self) -> list[str]:
        """What `@requires` compares (Starlette's `AuthCredentials`): the permissions, and `authenticated`."""
        return ["authenticated", *self._identity.permissions]

    @property
    def identity(self) -> str:
        """The subject (Starlette's `BaseUser`)."""
        return self._identity.subject

    pk = id = username = identity

    @property
    def display_name(self) -> str:
        """The name, else the subject (Starlette's `BaseUser`)."""
        return self._identity.name or self._identity.subject

    def get_username(self) -> str:
        """The subject (Django)."""
        return self._identity.subject

    def has_perm(self, permission: str, obj: object = None) -> bool:
        """Whether the issuer granted a permission (Django)."""
        del obj
        return self._identity.may(permission)

    def __str__(self) -> str:
        return self._identity.subject

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GuardedUser) and self._identity.user == other._identity.user

    def __hash__(self) -> int:
        return hash(self._identity.user)


def identity(connection: Any) -> Identity:
    """The user of a connection that a guard admitted.

    Args:
        connection: an ASGI scope, or an object with a `scope` (a Starlette or FastAPI `WebSocket`, Quart's
            `websocket`, a Channels consumer).

    Raises:
        Bug: the connection did not come through a guard.
    """
    found: Identity | None = socket_of(connection).context.identity
    assert found is not None  # an application gets no scope before the proof
    return found


def socket_of(connection: Any) -> Any:
    """The guard's socket behind a connection; as `identity`."""
    scope = connection if isinstance(connection, dict) else getattr(connection, "scope", None)
    socket = scope.get(SCOPE_KEY) if isinstance(scope, dict) else None
    if socket is None:
        raise Bug(
            "not_guarded",
            "This connection did not come through narthex.Guard, so that no user is known.",
            "Name its path in `paths=` of the Guard.",
        )
    return socket


def current_identity(connection: HTTPConnection) -> Identity:
    """`identity` as a dependency of FastAPI: `Annotated[Identity, Depends(current_identity)]`."""
    return identity(connection)
