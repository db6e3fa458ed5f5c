"""Runs the incident twice: the chat as it was, and the chat behind `narthex.Guard`. One command, no arguments.

    python examples/incident/compare.py

Both run under uvicorn with ENVIRONMENT=staging and the five end-to-end variables, and get the same seven tests. Exit
code 0: all seven failed before and passed after, and everybody else stayed out; 1: something differs from that.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx2
import jwt
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

HERE = Path(__file__).parent
SECRET = secrets.token_hex(32)
KEY = secrets.token_hex(32)
VARIABLES = {"E2E_TESTING": "1", "PYTEST_RUNNING": "1", "STAGING_E2E_TEST": "1", "E2E_TEST_ENV": "staging"}
STAGING = {"ENVIRONMENT": "staging", "JWT_SECRET": SECRET, "NARTHEX_JWT_SECRET": SECRET, **VARIABLES}
START_S = 60.0


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's variables without those that would change the outcome, and `more`."""
    names = ("NARTHEX_", "E2E_", "ENVIRONMENT", "PYTEST_", "STAGING_E2E_TEST")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)} | dict(more)


class Server:
    """An application under uvicorn on a free port, as a process of its own."""

    def __init__(self, application: str, folder: Path, variables: Mapping[str, str]) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.log = folder / f"{application}-{self.port}.log"
        command = [sys.executable, "-m", "uvicorn", f"{application}:app", "--app-dir", str(HERE)]
        data = {"NARTHEX_DATA_DIR": str(folder / f"data-{self.port}")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)],
                cwd=folder,
                env=environment(dict(variables) | data),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def http(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}/ws"

    def ready(self) -> Self:
        """Wait until the port is open."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()}")


def seven_tests(server: Server, proof: str, folder: Path) -> dict[str, str]:
    """Each test and its outcome: `passed`, the HTTP status of the refused handshake, or `failed`."""
    report = folder / f"{proof}.xml"
    command = [sys.executable, "-m", "pytest", str(HERE / "e2e"), f"--proof={proof}", f"--junit-xml={report}"]
    done = subprocess.run(
        [*command, "-q", "-c", os.devnull, "--rootdir", str(HERE), "-p", "no:cacheprovider"],
        env=environment(
            VARIABLES
            | {
                "E2E_OAUTH_SIMULATION_KEY": KEY,
                "CHAT_URL": server.url,
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            }
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if not report.exists():
        raise SystemExit(f"pytest did not run:\n{done.stdout}")
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        failures = [child.get("message", "") for child in case if child.tag in ("failure", "error")]
        status = re.search(r"HTTP (\d{3})", " ".join(failures))
        outcome = status[1] if status else "failed"
        outcomes[str(case.get("name"))] = outcome if failures else "passed"
    return outcomes


def visit(server: Server, headers: Mapping[str, str]) -> str:
    """The answer to a handshake: `admitted as …`, or the status and the reason that came with it."""
    try:
        with connect(server.url, additional_headers=dict(headers), proxy=None) as opened:
            return f"admitted as {json.loads(opened.recv(timeout=10))['user']}"
    except InvalidStatus as refused:
        reason = re.search(rb'"code":"(\w+)"', refused.response.body or b"")
        return f"{refused.response.status_code} {reason[1].decode() if reason else ''}".strip()


def token(secret: str) -> dict[str, str]:
    """A header with the token of `ann`."""
    claims = {"sub": "ann", "exp": int(time.time()) + 300}
    return {"Authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}


def visitors(before: Server, after: Server, keyless: Server) -> list[tuple[str, str, str, str, str]]:
    """Who asks, the answers before and after, and what each must be."""
    proof = {"X-E2E-Bypass-Key": KEY, "X-E2E-Test-Run": "compare"}
    rows = [
        ("a stranger: no credential", {}, "403", "401 auth_required"),
        ("a forged token", token(secrets.token_hex(32)), "500", "401 token_invalid"),
        ("a wrong key", {"X-E2E-Bypass-Key": secrets.token_hex(32)}, "403", "401 e2e_key_wrong"),
        ("ann, a customer with a valid token", token(SECRET), "500", "admitted as ann"),
        ("a test, by proof of the key", proof, "403", "admitted as e2e:compare"),
    ]
    found = [(who, visit(before, sent), visit(after, sent), *wanted) for who, sent, *wanted in rows]
    for who, sent, wanted in (
        ("four variables and no key on the server: a stranger", {}, "401 auth_required"),
        ("four variables and no key on the server: a test", proof, "403 e2e_not_allowed_here"),
    ):
        found.append((who, "", visit(keyless, sent), "", wanted))
    return found


def table(heads: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> None:
    """Print three columns."""
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(3)]
    for row in [heads, tuple("-" * width for width in widths), *rows]:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def main() -> int:
    """Run everything, print it, and return the exit code."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        auth = stack.enter_context(Server("auth_service", folder, STAGING))
        keyed = STAGING | {"E2E_OAUTH_SIMULATION_KEY": KEY}
        before, after, keyless = (
            stack.enter_context(Server(application, folder, variables))
            for application, variables in (
                ("before", keyed | {"AUTH_URL": auth.http}),
                ("after", keyed),
                ("after", STAGING),
            )
        )
        for server in (auth, before, after, keyless):
            server.ready()
        failing = seven_tests(before, "token", folder)
        passing = seven_tests(after, "key", folder)
        asked = visitors(before, after, keyless)
        open_by_key, open_without = (
            httpx2.get(f"{server.http}/ws/health").json()["e2e_testing"] for server in (after, keyless)
        )
        exchange = httpx2.post(
            f"{after.http}/auth/e2e/test-auth",
            headers={"X-E2E-Bypass-Key": KEY},
            json={"test_run": "compare"},
        ).json()
        asked_of_auth = auth.log.read_text().count("/introspect")
    print("ENVIRONMENT=staging, the five end-to-end variables set, the same seven tests\n")
    table(
        ("end-to-end test", "before", "after"),
        [(name.removeprefix("test_"), failing[name], passing.get(name, "missing")) for name in failing],
    )
    print(
        f"  The auth service was asked {asked_of_auth} times and answered each time. Its 401s opened the breaker.\n"
    )
    table(("who connects", "before", "after"), [(who, was, now) for who, was, now, *_ in asked])
    tenant, life_s = exchange["user"]["tenant"], exchange["expires_in"]
    print(f"  A test identity lives in tenant {tenant!r}, for {life_s} s.")
    print(f"  /ws/health after:       e2e_testing.auth_bypass_active = {open_by_key['auth_bypass_active']}")
    print(
        f"  the same without a key: e2e_testing.auth_bypass_active = {open_without['auth_bypass_active']}",
        end="",
    )
    print(f" ({open_without.get('reason', '')})\n")
    wrong = [who for who, was, now, then, wanted in asked if (was, now) != (then, wanted)]
    if len(failing) != 7 or set(failing.values()) != {"403", "500"}:
        wrong.append("the seven tests before")
    if set(passing) != set(failing) or set(passing.values()) != {"passed"}:
        wrong.append("the seven tests after")
    if (tenant, life_s) != ("e2e", 900):
        wrong.append("the confinement of test identities")
    if (open_by_key["auth_bypass_active"], open_without["auth_bypass_active"]) != (True, False):
        wrong.append("health")
    print(
        f"NOT AS EXPECTED: {', '.join(wrong)}"
        if wrong
        else "As expected: 0 of 7 passed before, 7 of 7 after."
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
