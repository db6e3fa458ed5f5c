"""`narthex drain URL`: what SIGTERM does, for operators who have no shell on the machine."""

from __future__ import annotations

import os
import sys
import time

from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE

POLL_S = 0.5


def drain(url: str, *, node: str = "", key: str | None = None, wait: float = 30.0) -> int:
    """Drain an instance and wait until it is gone.

    It refuses newcomers with 503, ends or hands over its runs, closes its sockets in paced batches (SDKs
    reconnect elsewhere), and exits. The admin key comes from NARTHEX_ADMIN_KEY or --key.

    Examples:
        narthex drain http://127.0.0.1:8000
        narthex drain https://chat.example.com --node cloud-run-1a2b3c4d5e6f

    Args:
        url: Base URL of the gateway.
        node: The instance's id (see /ws/stats); `*` for all; by default the one that answers.
        key: The admin key; better in NARTHEX_ADMIN_KEY, where a process list does not show it.
        wait: Seconds to wait for the instance to be gone; 0 does not wait.
    """
    import httpx2

    secret = key or os.environ.get("NARTHEX_ADMIN_KEY", "")
    if not secret:
        print("error: no admin key. Set NARTHEX_ADMIN_KEY to the gateway's.", file=sys.stderr)
        return EXIT_USAGE
    base = url.rstrip("/")
    with httpx2.Client(base_url=base, timeout=10) as client:
        try:
            answer = client.post(
                "/api/v1/drain", json={"node": node}, headers={"Authorization": f"Bearer {secret}"}
            )
        except httpx2.HTTPError as fault:
            print(f"error: {base} does not answer ({type(fault).__name__}). Check the URL.", file=sys.stderr)
            return EXIT_UNREACHABLE
        if answer.status_code != 200:
            problem = answer.json() if "json" in answer.headers.get("content-type", "") else {}
            print(
                f"error: {problem.get('detail', answer.status_code)} {problem.get('remedy', '')}",
                file=sys.stderr,
            )
            return EXIT_FINDINGS
        print(f"draining {node or base}")
        until = time.monotonic() + wait
        while wait and not node and time.monotonic() < until:
            try:
                client.get("/livez")
            except httpx2.HTTPError:
                print("gone")
                return EXIT_OK
            time.sleep(POLL_S)
    if wait and not node:
        print(
            f"error: it still answers after {wait:g} s. A load balancer may have others behind it.",
            file=sys.stderr,
        )
        return EXIT_FINDINGS
    return EXIT_OK
