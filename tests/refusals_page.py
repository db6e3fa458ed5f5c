"""docs/refusals.md as text, made from the table, so that the page cannot differ from what is answered.

Not here: writing it (`./check --write-docs`; the tests compare the two).
"""

from __future__ import annotations

from typing import Final

from narthex.domain.problem_table import ERRORS
from narthex.domain.refusals import TABLE, WWW_AUTHENTICATE_ERRORS, is_final

_HEAD: Final = """# Refusals

<!-- Made from src/narthex/domain/refusals.py and problem_table.py: `./check --write-docs` -->

Every refusal has one code on every transport:

- **over HTTP** (a refused upgrade, `/ws/preflight`, any route) as problem+json (RFC 9457) with `type, title,
  status, code, detail, remedy, trace_id, carriers_checked`, and with `WWW-Authenticate` or `Retry-After` where
  they belong;
- **on a WebSocket** as a close frame, whose reason is `code: text`. A client that offers the subprotocol
  `narthex.explain` is upgraded and closed with the reason at once, because browsers hide refused handshakes.

Close codes 3000-3499 and 4000-4499 mean "reconnect", 3500-3999 and 4500-4999 are final: SDKs act on them.
`trace_id` is the key to the gateway's own record of the refusal.

| code | HTTP | close | reconnect? | what happened | what to do |
| --- | --- | --- | --- | --- | --- |
"""

_TAIL: Final = """
A token that verified and has merely expired is not refused, unless the client offered `narthex.explain`: it is
upgraded, each `connect` is answered with error 109 until it carries a fresh token of the same subject, and after
10 s without one the connection is closed 3500 `token_expired`. SDKs fetch a fresh token on 109.
"""


_ERRORS_HEAD: Final = """
## Errors of commands and routes

They concern one command or request; the connection stays. Over HTTP they are problems as above, on a WebSocket the
errors of commands. The `type` of a problem, `/problems/<code>`, is a page of the gateway that refused:

![The page of origin_not_allowed: its code, status, close code, what happened and what to do](images/problem.png)

| code | status | what happened | what to do |
| --- | --- | --- | --- |
"""


def refusals_page() -> str:
    """The page."""
    rows = [
        f"| `{code}` | {row.http or '–'} | {row.close or '–'} | {_again(row.http, row.close)} | {row.title} "
        f"| {row.remedy} |"
        for code, row in TABLE.items()
    ]
    errors = [
        f"| `{code}` | {row.http or '–'} | {row.title} | {row.remedy} |"
        for code, row in sorted(ERRORS.items())
    ]
    return _HEAD + "\n".join(rows) + "\n" + _challenges() + _TAIL + _ERRORS_HEAD + "\n".join(errors) + "\n"


def _again(http: int | None, close: int | None) -> str:
    """Whether trying the same again can help."""
    if close is not None and close >= 3000:
        return "no" if is_final(close) else "yes"
    return "yes" if http in (408, 429, 503) else "no"


def _challenges() -> str:
    errors = sorted({error for error in WWW_AUTHENTICATE_ERRORS.values() if error})
    plain = [f"`{code}`" for code, error in WWW_AUTHENTICATE_ERRORS.items() if not error]
    return (
        f'\n401 answers carry `WWW-Authenticate: Bearer realm="narthex"` (RFC 6750), with `error="{errors[0]}"` '
        f"for all but {', '.join(plain)}.\n"
    )
