"""Calls the operators' API of a gateway, for `top`, `connections` and `trace`.

Not here: the commands. Rule: the admin key comes from NARTHEX_ADMIN_KEY or `--key`, and is sent to the named host only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from narthex.cli.arguments import base_url, usage
from narthex.errors import EXIT_OK, ClientError, DependencyError

if TYPE_CHECKING:
    import httpx2

ANSWER_S: Final = 10.0
KEY_REMEDY: Final = "Set NARTHEX_ADMIN_KEY to the gateway's admin key, or to the token of an operator."


class OperatorClient:
    """One gateway's API.

    Args:
        url: of the gateway.
        key: the admin key or an operator's token; empty: NARTHEX_ADMIN_KEY.

    Raises:
        ClientError: the URL or the key is unusable.
    """

    def __init__(self, url: str, key: str = "") -> None:
        import httpx2

        secret = key or os.environ.get("NARTHEX_ADMIN_KEY", "")
        if not secret:
            raise ClientError("no_key", "No admin key is given.", KEY_REMEDY)
        if not secret.isascii() or not secret.isprintable():
            raise ClientError("bad_key", "The key has characters that headers cannot carry.", KEY_REMEDY)
        self.base = base_url(url)
        self._http: httpx2.Client = httpx2.Client(
            base_url=self.base, timeout=ANSWER_S, headers={"Authorization": f"Bearer {secret}"}
        )

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
        except httpx2.HTTPError as fault:
            raise DependencyError(
                "gateway", f"{self.base} does not respond ({type(fault).__name__}).", "Check the URL."
            ) from fault
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
        raise ClientError(str(problem.get("code") or "failed"), detail, remedy)


def with_client(url: str, key: str, work: Callable[[OperatorClient], int]) -> int:
    """Run a command's work; wrong arguments exit 2. Ctrl-C is a way to end it."""
    try:
        client = OperatorClient(url, key)
    except ClientError as error:
        return usage(error)
    try:
        return work(client)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_OK
