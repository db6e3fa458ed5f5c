"""`narthex trace URL`: shows the messages of one user, live, until the time is over or Ctrl-C.

Rules: texts are masked unless `--payloads`, which the gateway's setting must allow; start and end are audit records.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from narthex.cli.arguments import seconds_of, usage
from narthex.cli.operator_client import OperatorClient, with_client
from narthex.doctor.reports import harmless
from narthex.errors import EXIT_OK, ClientError

POLL_S: Final = 0.5
AGAIN_S: Final = 5.0
ARROWS: Final = {"in": "->", "out": "<-", "note": "  "}


def trace(
    url: str,
    *,
    user: str,
    tenant: str = "default",
    client: str = "",
    for_: Annotated[str, Parameter(name="--for")] = "2m",
    payloads: Annotated[bool, Parameter(negative=())] = False,
    key: str = "",
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Show what a user's connections send and receive, live.

    Examples:
        narthex trace https://chat.example.com --user ada --for 5m

    Args:
        url: Base URL of the gateway.
        user: The user's id.
        tenant: Its tenant.
        client: One connection, by its id; all by default.
        for_: How long, at most 10m.
        payloads: Show texts too; the gateway's NARTHEX_TRACE_PAYLOADS must allow it.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: One JSON line a message.
    """
    try:
        seconds = seconds_of("for", for_)
    except ClientError as error:
        return usage(error)

    def work(operator: OperatorClient) -> int:
        body = {
            "user": user,
            "tenant": tenant,
            "client": client,
            "seconds": seconds,
            "payloads": payloads,
        }
        trace_id = operator.post("/api/v1/operator/traces", body)["trace_id"]
        newest, printed = 0.0, set[str]()
        try:
            while True:
                # Entries of several processes come in no common order: ask for the last seconds again.
                found = operator.get(f"/api/v1/operator/traces/{trace_id}", after=max(0.0, newest - AGAIN_S))
                for entry in found["entries"]:
                    text = json.dumps(entry)
                    if text not in printed:
                        printed.add(text)
                        newest = max(newest, float(entry["at"]))
                        print(text if json_ else _line(entry), flush=True)
                if not found["running"]:
                    return EXIT_OK
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            operator.post("/api/v1/operator/traces/end", {"trace_id": trace_id})
            print("ended", file=sys.stderr)
            return EXIT_OK

    return with_client(url, key, work)


def _line(entry: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(entry["at"]))
    size = f" {entry['size']} B" if entry.get("size") else ""
    return harmless(
        f"{at} {ARROWS[entry['direction']]} {entry.get('kind', '')}{size} {entry.get('body', '')}"
    )
