"""Runs an SDK's own test suite against narthex: opt-in, on the path of a checkout of its repository.

usage: python -m tests.acceptance.sdks.own_suites go|python PATH [OPTION …]     (options for the suite's runner)

The suites were written for Centrifugo on port 8000 with open channels. So a gateway runs here whose channel names are
mapped: any name is a thread that everybody owns, everybody may publish, and tokens are Centrifugo's, without an end.
All else is the real program. Exit 0: no failure but those of `EXPECTED`; 1: others, which are printed.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from narthex.app.chat import Chat
from narthex.app.commands import channels, server_side, subscribing
from narthex.domain import admission
from narthex.domain.admission import AdmissionPolicy, Admit, HandshakeFacts
from narthex.domain.channels import parse_channel
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.verdict import Rejected, Valid, Verdict
from narthex.ports.tokens import VerifierStatus
from narthex.testing import gateway

PORT: Final = 8000
SUITE_S: Final = 600.0
NAMESPACES: Final = ("smallhistory",)

PAYLOADS: Final = (
    "compares a payload byte for byte; `publish` here removes white space between the tokens of its JSON"
)
PERSONAL: Final = "expects Centrifugo's personal channel `#42`; here it is `user:42`"
TOKENS: Final = "expects a token for a subscription; here membership of the thread decides"
KEPT: Final = "expects a channel that keeps 2 publications; here every channel has a log"
SUBSCRIBERS: Final = (
    "asks about a channel that it is not subscribed to; presence and history are for subscribers"
)
NO_TEST: Final = "a helper of the suite that pytest takes for a test"

EXPECTED: Final[Mapping[str, Mapping[str, str]]] = {
    "python": {
        r".*\.test_get_(client|subscription)_token": NO_TEST,
        r".*\.(test_pub_sub|test_auto_recovery|test_client_publish_history_presence)": PAYLOADS,
        r".*\.(test_recovery_after_unsub_resub|test_get_state_called_on_initial_subscribe)": PAYLOADS,
        r".*\.test_server_side_subs": PERSONAL,
        r".*\.TestSubscriptionTokenInvalid\.test_client_token": TOKENS,
        r".*\.test_get_state_called_again_on_unrecoverable_position": KEPT,
    },
    "go": {
        "TestPublishProtobuf": "publishes a payload that is no JSON; payloads are JSON in protobuf too",
        "TestClient_(Presence|PresenceStats|History)": SUBSCRIBERS,
        "Test.*GetState.*Unrecoverable.*": KEPT,
    },
}
"""By SDK, tests that fail here and why (docs/protocol.md); the keys are regular expressions for whole names."""


def mapped(name: str) -> tuple[str, str] | None:
    """Any channel is a thread; one of an unknown namespace is unknown, as in Centrifugo."""
    found = parse_channel(name)
    if found is not None or not name:
        return found
    namespace, colon, _ = name.partition(":")
    return ("thread", name) if not colon or namespace in NAMESPACES else None


async def owner(chat: Chat, identity: Identity, thread_id: str) -> str:
    """Everybody owns every thread."""
    return "owner"


def user(subject: str, kind: IdentityClass = IdentityClass.USER) -> Identity:
    """A user who may publish."""
    return Identity(subject=subject, plan="enterprise", permissions=("admin",), identity_class=kind)


def anonymous(facts: HandshakeFacts, policy: AdmissionPolicy) -> Admit:
    """A client without a token, which Centrifugo admits when it is told to be insecure; a token may still follow."""
    return Admit(
        identity=user(f"guest:{facts.fresh_id}", IdentityClass.GUEST),
        subprotocol=facts.carriers.subprotocol,
        explain=facts.carriers.explain,
    )


class CentrifugoTokens:
    """Verifies the suites' tokens: HS256 with the secret `secret`, mostly without an end."""

    def verify(self, token: str, *, now: float, traffic: str) -> Verdict:
        head, _, signature = token.rpartition(".")
        expected = hmac.digest(b"secret", head.encode(), hashlib.sha256)
        try:
            given = urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
            body = head.split(".")[1]
            claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, IndexError):
            return Rejected("token_malformed")
        if not hmac.compare_digest(expected, given):
            return Rejected("token_invalid")
        return Valid(user(str(claims.get("sub") or "anonymous")))

    async def check(self) -> VerifierStatus:
        return VerifierStatus(status="healthy", detail="")

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def failed_go(path: Path, more: Sequence[str]) -> set[str]:
    """The failed tests of centrifuge-go, but for one that waits for ever for delta compression, which is not here."""
    words = ("-count=1", "-json", "-timeout", f"{int(SUITE_S)}s", "-skip", "^TestHandlePublishFossil$")
    done = suite(path, "go", "test", *words, *more, ".")
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(event["Action"] == "pass" and event.get("Test") for event in events), done.stdout[-4000:]
    return {event["Test"] for event in events if event["Action"] == "fail" and event.get("Test")}


def failed_python(path: Path, more: Sequence[str]) -> set[str]:
    """The failed tests of centrifuge-python, whose own sources are imported."""
    report = Path(tempfile.mkdtemp()) / "report.xml"
    words = (
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:narthex",
        f"--junitxml={report}",
        "tests",
    )
    done = suite(path, sys.executable, *words, PYTHONPATH=str(path))
    assert report.exists(), done.stdout[-4000:] + done.stderr[-2000:]
    cases = list(ET.parse(report).getroot().iter("testcase"))
    assert any(len(case) == 0 for case in cases), done.stdout[-4000:]
    return {
        f"{case.get('classname')}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    }


def suite(path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a suite in its checkout."""
    return subprocess.run(
        words,
        cwd=path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SUITE_S,
        check=False,
    )


SUITES: Final[Mapping[str, Any]] = {"go": failed_go, "python": failed_python}


async def run(name: str, path: Path, more: Sequence[str]) -> set[str]:
    """Serve on port 8000 while the suite runs; returns the names of its failed tests."""
    for module in (channels, subscribing, server_side):
        module.parse_channel = mapped  # type: ignore[attr-defined]
    Chat.role = owner  # type: ignore[method-assign,assignment]
    admission._nothing_brought = anonymous
    options: dict[str, Any] = {"commands_per_s": 10_000, "commands_burst": 100_000}
    options |= {"max_connections_per_user": 10_000, "max_connections_per_address": 10_000}
    with tempfile.TemporaryDirectory() as directory:
        async with gateway(Path(directory), port=PORT, verifier=CentrifugoTokens(), **options):
            return set(await asyncio.to_thread(SUITES[name], path, more))


def main() -> int:
    """See the module."""
    if len(sys.argv) < 3 or sys.argv[1] not in SUITES:
        print(__doc__, file=sys.stderr)
        return 2
    name, path = sys.argv[1], Path(sys.argv[2]).resolve()
    failed = asyncio.run(run(name, path, sys.argv[3:]))
    reasons = {
        test: next((why for pattern, why in EXPECTED[name].items() if re.fullmatch(pattern, test)), "")
        for test in sorted(failed)
    }
    for test, why in reasons.items():
        print(f"{'expected' if why else 'FAILED  '} {test}{f': {why}' if why else ''}")
    unexpected = [test for test, why in reasons.items() if not why]
    print(f"{len(failed)} failed, {len(unexpected)} of them without a reason on the list")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
