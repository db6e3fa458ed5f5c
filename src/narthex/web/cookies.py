"""Names, writes and reads narthex's three cookies.

Over https every name begins with `__Host-`: a browser accepts that only with `Secure`, `Path=/` and no `Domain`, so
that neither a neighbouring host nor an attacker on a plain connection can plant one (session fixation). Not here: the
session cookie as a carrier of the upgrade (`domain/carriers.py`). Rules: two different cookies of one name are a
conflict, because their order proves nothing; the refresh and sign-in cookies, which `Path=/` sends everywhere, reach
no application but `/auth`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from narthex.domain.carriers import HOST_SESSION_COOKIE, SESSION_COOKIE
from narthex.domain.refusals import Refusal
from narthex.web.paths import route_path


class Cookie(NamedTuple):
    """One cookie of ours: its names, and the requests that may carry it."""

    plain: str
    secure: str
    path: str
    samesite: Literal["lax", "strict"]

    def name(self, *, secure: bool) -> str:
        """The name by the client's scheme: over https the plain name is not used, because other hosts can set it."""
        return self.secure if secure else self.plain


SESSION: Final = Cookie(SESSION_COOKIE, HOST_SESSION_COOKIE, "/", "lax")
REFRESH: Final = Cookie("narthex_refresh", "__Host-narthex_refresh", "/auth", "strict")
JOURNEY: Final = Cookie("narthex_oidc", "__Host-narthex_oidc", "/auth/oidc", "lax")
_KEPT_BACK: Final = frozenset({REFRESH.plain, REFRESH.secure, JOURNEY.plain, JOURNEY.secure})


def put_cookie(
    response: Response, cookie: Cookie, value: str, *, secure: bool, max_age_s: int, root: str = ""
) -> None:
    """Set it: HttpOnly always, and over https as `__Host-` demands. `root`: see `web.paths`."""
    response.set_cookie(
        cookie.name(secure=secure),
        value,
        max_age=max_age_s,
        path="/" if secure else root + cookie.path,
        httponly=True,
        samesite=cookie.samesite,
        secure=secure,
    )


def drop_cookie(response: Response, cookie: Cookie, *, secure: bool, root: str = "") -> None:
    """Have the browser forget it."""
    response.delete_cookie(
        cookie.name(secure=secure),
        path="/" if secure else root + cookie.path,
        httponly=True,
        samesite=cookie.samesite,
        secure=secure,
    )


def only_cookie(request: Request, cookie: Cookie, *, secure: bool) -> str | Refusal:
    """Its value, empty when it is not there; `credential_conflict` when it is there with two values."""
    name = cookie.name(secure=secure)
    found = {
        content.strip('"')
        for header in request.headers.getlist("cookie")
        for pair in header.split(";")
        for key, equals, content in [pair.strip(" \t").partition("=")]
        if equals and key == name and content
    }
    if len(found) > 1:
        return Refusal(code="credential_conflict", detail=f"The request has two different {name} cookies.")
    return found.pop() if found else ""


class KeptFromApplications:
    """ASGI middleware: removes the refresh and sign-in cookies from every request outside `/auth`.

    An embedding program's own routes and mounts get the session's cookie only: they have no use for the refresh
    token, which lives for 30 days.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] in ("http", "websocket") and not route_path(scope).startswith("/auth/"):
            headers = scope["headers"]
            if any(name == b"cookie" and b"narthex_" in value for name, value in headers):
                scope = dict(scope) | {"headers": [kept for one in headers if (kept := _without(one))]}
        await self._app(scope, receive, send)


def _without(header: tuple[bytes, bytes]) -> tuple[bytes, bytes] | None:
    name, value = header
    if name != b"cookie":
        return header
    pairs = value.split(b";")
    kept = [pair for pair in pairs if pair.partition(b"=")[0].strip().decode("latin-1") not in _KEPT_BACK]
    return (name, b";".join(kept).strip()) if kept else None
