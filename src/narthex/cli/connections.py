"""`narthex connections`: lists the live connections of all processes, closes connections, and revokes their tokens.

Rules: the gateway records each close as an audit record; `--json` prints what the API answers.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

from cyclopts import App, Parameter

from narthex.cli.operator_client import OperatorClient, with_client
from narthex.doctor.reports import harmless
from narthex.errors import EXIT_OK

app = App(
    name="connections", help="List live connections of all processes, close them, or revoke a user's tokens."
)

Json = Annotated[bool, Parameter(name="--json", negative=())]
PAGE = 200


@app.command(name="list")
def list_(
    url: str,
    *,
    user: str = "",
    tenant: str = "",
    class_: Annotated[str, Parameter(name="--class")] = "",
    plan: str = "",
    node: str = "",
    slow: Annotated[bool, Parameter(negative=())] = False,
    limit: int = 100,
    key: str = "",
    json_: Json = False,
) -> int:
    """List live connections, newest first.

    Examples:
        narthex connections list https://chat.example.com --user ada

    Args:
        url: Base URL of the gateway.
        user: Only this user's.
        tenant: Only this tenant's.
        class_: Only user, guest or e2e.
        plan: Only this plan's.
        node: Only this instance's.
        slow: Only clients that do not read as fast as the server writes.
        limit: At most so many.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def work(client: OperatorClient) -> int:
        found: list[dict[str, Any]] = []
        missing: list[str] = []
        before = ""
        while len(found) < limit:
            query = {"user": user, "tenant": tenant, "class": class_, "plan": plan, "node": node}
            page = client.get(
                "/api/v1/operator/connections",
                **query,
                slow="1" if slow else "",
                before=before,
                limit=min(PAGE, limit - len(found)),
            )
            found += page["connections"]
            missing, before = page["missing"], page["next"]
            if not before:
                break
        if json_:
            print(json.dumps({"connections": found, "missing": missing}, indent=2))
        else:
            _show(found, missing)
        return EXIT_OK

    return with_client(url, key, work)


@app.command
def disconnect(
    url: str, *, user: str, tenant: str = "default", client: str = "", reason: str = "", key: str = ""
) -> int:
    """Close a user's connections on every process, or one of them.

    Examples:
        narthex connections disconnect https://chat.example.com --user ada

    Args:
        url: Base URL of the gateway.
        user: The user's id.
        tenant: Its tenant.
        client: One connection, by its id; all by default.
        reason: For the client, besides the code 3503.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
    """

    def work(operator: OperatorClient) -> int:
        body = {"user": user, "tenant": tenant, "client": client}
        operator.post("/api/v1/disconnect", body | ({"reason": reason} if reason else {}))
        print(f"disconnected {client or user}")
        return EXIT_OK

    return with_client(url, key, work)


@app.command
def revoke(url: str, *, user: str, tenant: str = "default", reason: str = "", key: str = "") -> int:
    """Revoke all tokens of a user and close the connections, on every process.

    Examples:
        narthex connections revoke https://chat.example.com --user ada

    Args:
        url: Base URL of the gateway.
        user: The user's id.
        tenant: Its tenant.
        reason: For the audit record.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
    """

    def work(operator: OperatorClient) -> int:
        body = {"kind": "subject", "value": user, "tenant": tenant, "reason": reason}
        operator.post("/api/v1/revoke", body)
        print(f"revoked all tokens of {user}")
        return EXIT_OK

    return with_client(url, key, work)


def _show(entries: list[dict[str, Any]], missing: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(
        "user", "tenant", "plan", "for", "client", "node", "subs", "lag", "id", box=None, pad_edge=False
    )
    now = time.time()
    for one in entries:
        cells = (
            one.get("user") or "not proven",
            one.get("tenant", ""),
            one.get("plan", ""),
            duration(now - float(one["since"])),
            one.get("library") or one.get("transport", ""),
            one["node"],
            str(one.get("subscription_count", 0)),
            f"{one.get('pending_bytes', 0)} B" if one.get("slow") else "-",
            one["client"],
        )
        table.add_row(*(harmless(str(cell)) for cell in cells))
    console.print(table)
    console.print(f"{len(entries)} connections")
    for node in missing:
        console.print(f"no answer from {node}: its connections are not listed")


def duration(seconds: float) -> str:
    """`42 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
