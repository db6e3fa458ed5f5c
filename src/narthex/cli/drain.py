"""`narthex drain URL`: drains an instance as SIGTERM does, for operators who have no shell on the machine.

Rules: an instance is gone when its port refuses connections, and not because something went wrong on the way; exit 0
gone (or not waited for), 1 refused or still there, 2 usage, 69 nothing answers.
"""

from __future__ import annotations

import time
from typing import Final

from narthex.cli.arguments import usage
from narthex.cli.operator_client import ANSWER_S, OperatorClient
from narthex.errors import EXIT_OK, ClientError

POLL_S: Final = 0.5


def drain(url: str, *, node: str = "", key: str | None = None, wait: float = 30.0) -> int:
    """Drain an instance and wait until it is gone.

    It refuses new handshakes with 503, ends or hands over its runs, closes its sockets in paced batches (SDKs
    reconnect elsewhere), and exits. With --workers the whole `narthex serve` does. The admin key comes from
    NARTHEX_ADMIN_KEY or --key.

    Examples:
        narthex drain http://127.0.0.1:8000
        narthex drain https://chat.example.com --node cloud-run-1a2b3c4d5e6f

    Args:
        url: Base URL of the gateway.
        node: The instance's id (see /ws/stats); `*` for all; by default the one that answers.
        key: The admin key; better in NARTHEX_ADMIN_KEY, where a process list does not show it.
        wait: Seconds to wait for the instance to be gone; 0 does not wait.
    """
    try:
        client = OperatorClient(url, key or "")
    except ClientError as error:
        return usage(error)
    with client:
        client.post("/api/v1/drain", {"node": node})
        print(f"draining {node or client.base}", flush=True)
        if wait > 0 and not node:
            _await_end(client, wait)
            print("gone")
    return EXIT_OK


def _await_end(client: OperatorClient, wait_s: float) -> None:
    """Wait until the port refuses connections. Raises ClientError when it does not in time."""
    import httpx2

    until = time.monotonic() + wait_s
    seen = "it still responds"
    while time.monotonic() < until:
        try:
            client.responds("/livez", min(ANSWER_S, max(0.1, until - time.monotonic())))
            seen = "it still responds"
        except httpx2.HTTPError as fault:
            if refused(fault):
                return
            # A time-out, a name that no longer resolves, a reset: the instance may be there all the same.
            seen = f"the last request failed with {type(fault).__name__}"
        time.sleep(min(POLL_S, max(0.0, until - time.monotonic())))
    raise ClientError(
        "not_gone",
        f"The gateway may still be running: after {wait_s:g} s {seen}."
        if "failed" in seen
        else f"After {wait_s:g} s {seen}.",
        "A load balancer may reach other instances: check /ws/stats, or name the instance with --node.",
    )


def refused(fault: BaseException) -> bool:
    """Whether the port refuses connections; no other failure counts."""
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError):
            return True
        seen = seen.__cause__ or seen.__context__
    return "refused" in str(fault).lower()
