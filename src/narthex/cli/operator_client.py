"""Calls the operators' API of a gateway or of `narthex status serve`, for every command of an operator.

Not here: the commands. Rule: the admin key comes from NARTHEX_ADMIN_KEY or `--key`, and is sent to the named host only.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from narthex.cli.arguments import base_url, usage
from narthex.errors import EXIT_OK, ClientError, DependencyError

if TYPE_CHECKING:
    import httpx2

ANSWER_S: Final = 10.0
KEY_REMEDY: Final = "Set NARTHEX_ADMIN_KEY to the gateway's admin key, or to the token of an operator."


class ServerFault(ClientError):
    """The server answered with a 5xx status; the command may succeed later."""


class OperatorClient:
    """The API of one gateway or status service.

    Args:
        url: its base URL.
        key: the admin key or an operator's token; empty: NARTHEX_ADMIN_KEY; None: no key, for public routes, whose
            redirects are followed.

    Raises:
        ClientError: the URL or the key is unusable.
    """

    def __init__(self, url: str, key: str | None = "") -> None:
        import httpx2

        headers = {} if key is None else {"Authorization": f"Bearer {_secret(key)}"}
        self.base = base_url(url)
        self._http: httpx2.Client = httpx2.Client(
            base_url=self.base, timeout=ANSWER_S, headers=headers, follow_redirects=key is None
        )

    def __enter__(self) -> Self:
        """The client, whose connections `with` closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """The JSON of a GET. Raises ClientError when it is refused, DependencyError when nothing answers."""
        given = {name: value for name, value in query.items() if value not in ("", None, False)}
        return self._send("GET", path, params=given)

    def post(self, path: str, body: object) -> Any:
        """The JSON of a POST. Raises as `get`."""
        return self._send("POST", path, json=body)

    def _send(self, method: str, path: str, **options: Any) -> Any:
        import httpx2

        try:
            answer = self._http.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as fault:
            raise DependencyError(
                "gateway",
                f"{self.base} does not respond ({type(fault).__name__}).",
                "Check the URL, and whether the server runs.",
            ) from fault
        if answer.is_redirect:  # not followed: the key would go to another address
            place = str(answer.url.join(answer.headers.get("location", ""))).partition(path)[0]
            raise ClientError(
                "elsewhere",
                f"{self.base} redirects to {place}.",
                f"Give {place} as the URL, and its admin key.",
            )
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.status_code == 200 and found is not None:
            return found
        problem: dict[str, Any] = found if isinstance(found, dict) else {}
        detail = str(problem.get("detail") or f"{self.base} answered {answer.status_code}.")
        if answer.status_code in (401, 403):
            raise ClientError(str(problem.get("code") or "refused"), detail, KEY_REMEDY)
        remedy = str(problem.get("remedy") or "Check that the URL is that of a narthex gateway.")
        kind = ServerFault if answer.status_code >= 500 else ClientError
        raise kind(str(problem.get("code") or "failed"), detail, remedy)

    def responds(self, path: str, timeout_s: float) -> None:
        """Ask for `path` within a time; any answer will do. Raises httpx2.HTTPError without one.

        Without the key: once the gateway has ended, another program may have its port.
        """
        request = self._http.build_request("GET", path, timeout=timeout_s)
        request.headers.pop("Authorization", None)
        self._http.send(request)


def _secret(key: str) -> str:
    secret = key or os.environ.get("NARTHEX_ADMIN_KEY", "")
    if not secret:
        raise ClientError("no_key", "No admin key is given.", KEY_REMEDY)
    if not secret.isascii() or not secret.isprintable():
        raise ClientError("bad_key", "The key has characters that headers cannot carry.", KEY_REMEDY)
    return secret


def repeat(read: Callable[[], object], pause_s: float) -> NoReturn:
    """Call `read` until Ctrl-C. Its first fault is raised; a later one of the server, which may be restarting, is
    reported once on stderr until an answer comes.
    """
    read()
    reported = False
    while True:
        time.sleep(pause_s)
        try:
            read()
            reported = False
        except (DependencyError, ServerFault) as fault:
            if not reported:
                print(f"{fault.message} Trying again; Ctrl-C ends it.", file=sys.stderr, flush=True)
            reported = True


def with_client(url: str, key: str, work: Callable[[OperatorClient], int]) -> int:
    """Run a command's work; wrong arguments exit 2. Ctrl-C is a way to end it."""
    try:
        client = OperatorClient(url, key)
    except ClientError as error:
        return usage(error)
    try:
        with client:
            return work(client)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_OK
