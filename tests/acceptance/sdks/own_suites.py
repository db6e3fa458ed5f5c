"""Runs an SDK's own test suite against narthex: opt-in, on the path of a checkout of its repository.

usage: python -m tests.acceptance.sdks.own_suites go|java|js|python PATH [OPTION …]     (options for the suite's runner)

The suites were written for Centrifugo on port 8000 with open channels. So a gateway runs here whose channel names are
mapped: any name is a thread that every user owns, every user may publish, tokens are Centrifugo's, and `/api/` takes
Centrifugo's requests. All else is the real program. Exit 0: no failure but those of `EXPECTED`; 1: others, which are
printed. The checkout for `js` needs its packages (`npm install --ignore-scripts --legacy-peer-deps`); Maven builds the
one for `java`.
"""

from __future__ import annotations

import asyncio
import functools
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

import httpx2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from narthex.app.chat import Chat
from narthex.app.commands import channels, server_side, subscribing
from narthex.domain import admission
from narthex.domain.admission import AdmissionPolicy, Admit, HandshakeFacts
from narthex.domain.channels import channel_key, parse_channel
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.verdict import Rejected, Valid, Verdict
from narthex.ports.tokens import VerifierStatus
from narthex.testing import gateway
from narthex.web.api import routes as server_api

PORT: Final = 8000
SUITE_S: Final = 900.0
TEST_S: Final = 20  # tests that wait for ever for a feature that is not here
ADMIN_KEY: Final = "the admin key of the suites, thirty-two characters"
NAMESPACES: Final = ("delta", "recovery", "smallhistory")
HERE: Final = Path(__file__).parent

PERSONAL: Final = (
    "expects Centrifugo's personal channel `#42`, with joins; here it is `user:42`, without presence"
)
NOT_JSON: Final = "publishes a payload that is no JSON; payloads are JSON in protobuf too"
METHODS: Final = "expects 108 of a server without RPC; a method that is unknown here is 104"
IN_URL: Final = "sends its token in the URL of an SSE stream; here it is refused (`credential_in_url`)"
CLOSED: Final = "expects a closed connection to show no code; here the SDK gets the server's 3000"
TOKENS: Final = "expects a token for a subscription; here membership of the thread decides"
KEPT: Final = "expects a channel that keeps 2 publications; here every channel has a log"
SUBSCRIBERS: Final = (
    "asks about a channel that it is not subscribed to; presence and history are for subscribers"
)
NO_TEST: Final = "a helper of the suite that pytest takes for a test"

EXPECTED: Final[Mapping[str, Mapping[str, str]]] = {
    "python": {
        r".*\.test_get_(client|subscription)_token": NO_TEST,
        r".*\.test_server_side_subs": PERSONAL,
        r".*\.TestSubscriptionTokenInvalid\.test_client_token": TOKENS,
        r".*\.test_get_state_called_again_on_unrecoverable_position": KEPT,
    },
    "go": {
        "TestPublishProtobuf": NOT_JSON,
        "TestClient_(Presence|PresenceStats|History)": SUBSCRIBERS,
        "Test.*GetState.*Unrecoverable.*": KEPT,
    },
    "java": {
        r".*\.(testHistory|testPublishAndReceive)": NOT_JSON,
        r".*\.testGetStateCalledAgainOnUnrecoverablePosition": KEPT,
        r".*\.testPublishQueuedDuringReconnectIsDelivered": CLOSED,
    },
    "js": {
        ".*: rpc buffered till connected": METHODS,
        ".*: subscribe and unsubscribe loop": SUBSCRIBERS,
        "sse: (connects and subscribes with token|retries (connection|subscription) getToken error)": IN_URL,
        ".*[( ]unrecoverable position.*": KEPT,
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
        if claims.get("exp") and claims["exp"] < now:
            return Rejected("token_expired")
        return Valid(user(str(claims.get("sub") or "anonymous")))

    async def check(self) -> VerifierStatus:
        return VerifierStatus(status="healthy", detail="")

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def failed_go(path: Path, more: Sequence[str]) -> set[str]:
    """The failed tests of centrifuge-go."""
    words = ("-count=1", "-json", "-timeout", f"{int(SUITE_S)}s")
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
        f"--timeout={TEST_S}",
        f"--junitxml={report}",
        "tests",
    )
    done = suite(path, sys.executable, *words, PYTHONPATH=str(path))
    assert report.exists(), done.stdout[-4000:] + done.stderr[-2000:]
    assert any(len(case) == 0 for case in ET.parse(report).getroot().iter("testcase")), done.stdout[-4000:]
    return failed_cases(report)


def failed_js(path: Path, more: Sequence[str]) -> set[str]:
    """The failed tests of centrifuge-js, but for those of map subscriptions and shared polls, which are not served."""
    report = Path(tempfile.mkdtemp()) / "report.json"
    words = ("--forceExit", "--json", f"--outputFile={report}", "--testNamePattern=^(?!map)")
    ignored = ("--testPathIgnorePatterns", *JS_IGNORED)
    done = suite(path, "node", "node_modules/jest/bin/jest.js", *words, *ignored, *more)
    assert report.exists(), done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["numPassedTests"] > 0, done.stderr[-4000:]
    broken = {entry["name"] for entry in found["testResults"] if not entry["assertionResults"]}
    cases = [case for entry in found["testResults"] for case in entry["assertionResults"]]
    return broken | {case["fullName"] for case in cases if case["status"] == "failed"}


def failed_java(path: Path, more: Sequence[str]) -> set[str]:
    """The failed integration tests of centrifuge-java, whose sources Maven compiles."""
    target = Path(tempfile.mkdtemp())
    words = ("-B", "-f", str(HERE / "java_suite" / "pom.xml"), f"-Dcheckout={path}", f"-Dtarget={target}")
    done = suite(path, "mvn", *words, *more, "test")
    reports = list(target.glob("surefire-reports/TEST-*.xml"))
    assert reports, done.stdout[-4000:]
    return {name for report in reports for name in failed_cases(report)}


def failed_cases(report: Path) -> set[str]:
    """The failed cases of a report as JUnit writes them."""
    return {
        f"{case.get('classname')}.{case.get('name')}"
        for case in ET.parse(report).getroot().iter("testcase")
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


SUITES: Final[Mapping[str, Any]] = {
    "go": failed_go,
    "java": failed_java,
    "js": failed_js,
    "python": failed_python,
}
JS_IGNORED: Final = ("/map", "/shared_poll", "/debounce", "bench")


async def centrifugo_api(running: list[Any], request: Request) -> Response:
    """Centrifugo's server API, by narthex's."""
    body = await request.json()
    name = request.path_params["name"]
    if name == "history":
        top = (await running[0].core.broker.history(channel_key("default", body["channel"]), limit=0)).top
        return JSONResponse({"result": {"offset": top.offset, "epoch": top.epoch, "publications": []}})
    body |= body.pop("disconnect", {})
    async with httpx2.AsyncClient() as http:
        url, headers = f"http://127.0.0.1:{PORT}/api/v1/{name}", {"Authorization": f"Bearer {ADMIN_KEY}"}
        answer = await http.post(url, json=body, headers=headers)
    if answer.status_code != 200:
        return Response(answer.content, answer.status_code)
    return JSONResponse({"result": answer.json()})


async def run(name: str, path: Path, more: Sequence[str]) -> set[str]:
    """Serve on port 8000 while the suite runs; returns the names of its failed tests."""
    for module in (channels, subscribing, server_side, server_api):
        module.parse_channel = mapped  # type: ignore[attr-defined]
    Chat.role = owner  # type: ignore[method-assign,assignment]
    admission._nothing_brought = anonymous
    options: dict[str, Any] = {"commands_per_s": 10_000, "commands_burst": 100_000}
    options |= {"max_connections_per_user": 10_000, "max_connections_per_address": 10_000}
    options |= {"admin_key": ADMIN_KEY, "http_requests_per_s": 10_000, "http_requests_burst": 10_000}
    parts: list[Any] = []
    api = Route("/api/{name}", functools.partial(centrifugo_api, parts), methods=["POST"])
    verifier = CentrifugoTokens()
    with tempfile.TemporaryDirectory() as directory:
        async with gateway(Path(directory), port=PORT, verifier=verifier, routes=[api], **options) as running:
            parts.append(running.gateway.parts)
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
