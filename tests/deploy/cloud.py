"""A Cloud Run of one service for pipelines under test: real gateways as revisions, routed by the fake gcloud's state.

    pipeline ── gcloud (gcloud.py) ──> state.json: revisions, tags, traffic
    client ──> router: service URL, by the traffic; tag's URL, by the tag ──> gateways on NATS and PostgreSQL

Rules: everything is on loopback and ended by its own id; the gateways share their engines, as revisions do; the first
connection after a change of the traffic goes to the revision with the smallest share, so that a fault there is met.
"""

# ruff: noqa: E501 - tables read in rows
from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import stat
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

from narthex.e2e.children import Child, free_port
from narthex.e2e.engines import Postgres, answers, issuer, nats
from narthex.e2e.system_under_test import AUDIENCE, RunnerProof, SystemUnderTest

ROOT: Final = Path(__file__).parents[2]
SERVICE: Final = "chat"
OLD: Final = "img:old"
NEW: Final = "img:" + "0" * 40
BROKEN_AGENT: Final = """
async def agent(run):
    raise RuntimeError("the seeded fault")
    yield ""
"""


class Gateways:
    """The old revision, a good new one and a faulty new one, on one NATS, PostgreSQL and OIDC issuer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []
        self.ports: dict[str, int] = {}
        self.issuer_url = ""

    async def start(self) -> None:
        """Start everything; the first gateway makes the schema."""
        broker, store, oidc = nats(self.folder), Postgres(self.folder), issuer(self.folder)
        self._children = [broker, store, oidc]
        for child in self._children:
            await asyncio.to_thread(child.spawn)
        await asyncio.gather(*(child.up() for child in self._children))
        self.issuer_url = f"http://127.0.0.1:{oidc.port}"
        (self.folder / "broken.py").write_text(BROKEN_AGENT)
        environ = {
            "ENVIRONMENT": "staging",
            "E2E_TEST_ENV": "staging",
            "E2E_OAUTH_SIMULATION_KEY": "k" * 40,
            "NARTHEX_ALLOWED_HOSTS": "127.0.0.1",
            "NARTHEX_BROKER_URL": f"nats://127.0.0.1:{broker.port}",
            "NARTHEX_STORE_URL": store.url,
            "NARTHEX_E2E_OIDC_ISSUER": self.issuer_url,
            "NARTHEX_E2E_OIDC_SUBJECT": "repo:acme/chat:*",
            "NARTHEX_E2E_OIDC_AUDIENCE": AUDIENCE,
            "NARTHEX_ADMIN_KEY": "operator-0123456789abcdef",
            "PYTHONPATH": str(self.folder),
        }
        for name, more in (("old", {}), ("good", {}), ("faulty", {"NARTHEX_AGENT": "broken:agent"})):
            port = self.ports[name] = free_port()
            words = [sys.executable, "-m", "narthex", "serve", "--host", "127.0.0.1", "--port", str(port)]
            words += ["--data-dir", str(self.folder / f"data-{name}"), "--log-format", "json"]
            gateway = Child(
                f"gateway-{name}",
                self.folder,
                words,
                port,
                environ=environ | more,
                ready=partial(answers, f"http://127.0.0.1:{port}/readyz"),
            )
            self._children.insert(0, gateway)
            await gateway.start()

    def stop(self) -> None:
        """End everything, gateways first."""
        for child in self._children[:-3]:
            child.terminate()
        for child in self._children:
            child.stop()

    async def ci_token(self, workflow: str = "repo:acme/chat:ref:refs/heads/main") -> str:
        """What CI's issuer gives to a workflow."""
        system = SystemUnderTest("http://127.0.0.1:9", "staging", RunnerProof(), issuer_url=self.issuer_url)
        return (await system.issuer_user(workflow))["Authorization"].removeprefix("Bearer ")


class Cloud:
    """One service of a fake Cloud Run.

    Args:
        folder: for state, workspace and programs.
        ports: gateway's port by image; without gateways the router refuses connections.
        ci_token: what CI's token service hands out.
        sick: images whose connections through the service's URL are cut; those through the tag are served. As long as
            one has traffic it gets every connection, so that no test depends on which one is drawn.
        stub: `narthex` does nothing and succeeds, for pipelines whose order alone matters.
    """

    def __init__(
        self,
        folder: Path,
        ports: Mapping[str, int] | None = None,
        *,
        ci_token: str = "",
        sick: frozenset[str] = frozenset(),
        stub: bool = False,
    ) -> None:
        self.folder = folder
        self.state = folder / "state.json"
        self.workspace = folder / "workspace"
        self._ports = dict(ports or {})
        self._ci_token = ci_token
        self._sick = sick
        self._stub = stub
        self._servers: list[asyncio.Server] = []
        self._accepted: set[asyncio.Task[None]] = set()
        self._fresh: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        service, tag, tokens = [await self._listen(kind) for kind in ("service", "tag", "tokens")]
        self.url = f"http://127.0.0.1:{service}"
        self.tokens = tokens
        revision = f"{SERVICE}-00001-abc"
        self.state.write_text(
            json.dumps(
                {
                    "services": {
                        SERVICE: {
                            "revisions": [{"name": revision, "image": OLD}],
                            "traffic": [{"revision": revision, "percent": 100, "latest": True}],
                        }
                    },
                    "urls": {"service": self.url, "tags": {"candidate": f"http://127.0.0.1:{tag}"}},
                    "events": [],
                }
            )
        )
        self._programs()
        shutil.copytree(ROOT / "deploy", self.workspace / "deploy")
        (self.workspace / "check").write_text("#!/bin/sh\necho checked\n")
        (self.workspace / "check").chmod(0o755)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._accepted:
            task.cancel()
        await asyncio.gather(*self._accepted, return_exceptions=True)

    # -- what a test looks at ------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        """For the runner: fakes first on the PATH, and CI's variables."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        return kept | {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "FAKE_CLOUD": str(self.state),
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{self.tokens}/token?api=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "request-token",
        }

    @property
    def events(self) -> list[dict[str, Any]]:
        """Deploys, changes of the traffic, and ends of narthex commands, in order."""
        found: list[dict[str, Any]] = json.loads(self.state.read_text())["events"]
        return found

    def traffic(self) -> dict[str, int]:
        """Per cent by image."""
        body = json.loads(self.state.read_text())["services"][SERVICE]
        images = {revision["name"]: revision["image"] for revision in body["revisions"]}
        found: dict[str, int] = {}
        for target in body["traffic"]:
            image = images[target["revision"]]
            found[image] = found.get(image, 0) + target["percent"]
        return {image: share for image, share in found.items() if share}

    # -- programs ------------------------------------------------------------------------------------------

    def _programs(self) -> None:
        folder = self.folder / "bin"
        folder.mkdir()
        python, here = sys.executable, Path(__file__).parent
        narthex = "exit 0" if self._stub else f'"{python}" -m narthex "$@"'
        pip = (
            'if [ "$1 $2" = "-m pip" ]; then exit 0; fi\n'
            f'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 0; fi\nexec {python} "$@"\n'
        )
        programs = {
            "gcloud": f'exec {python} {here / "gcloud.py"} "$@"\n',
            "docker": 'case "$1" in build|push) exit 0;; *) echo "docker: unknown command $1" >&2; exit 1;; esac\n',
            "apt-get": "exit 0\n",
            "python": pip,
            "python3": pip,
            "narthex": f'set +e\n({narthex})\ncode=$?\n{python} {here / "cloud.py"} "$code" "$@"\nexit $code\n',
        }
        for name, text in programs.items():
            path = folder / name
            path.write_text(f"#!/bin/bash\n{text}")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    # -- the data plane ------------------------------------------------------------------------------------

    async def _listen(self, kind: str) -> int:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._accepted.add(task)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await (
                        self._token(reader, writer) if kind == "tokens" else self._route(kind, reader, writer)
                    )
            finally:
                writer.close()
                self._accepted.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _route(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        image = self._image(kind)
        if image not in self._ports or (kind == "service" and image in self._sick):
            return
        upstream = await asyncio.open_connection("127.0.0.1", self._ports[image])
        try:
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        finally:
            upstream[1].close()

    def _image(self, kind: str) -> str:
        if kind == "tag":
            body = json.loads(self.state.read_text())["services"][SERVICE]
            revision = next(
                target["revision"] for target in body["traffic"] if target.get("tag") == "candidate"
            )
            return next(str(one["image"]) for one in body["revisions"] if one["name"] == revision)
        shares = self.traffic()
        for image in shares:
            if image in self._sick:
                return image
        if shares != self._fresh:
            self._fresh = shares
            return min(shares, key=lambda image: shares[image])
        return random.choices(list(shares), list(shares.values()))[0]

    async def _token(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """GitHub's token service and Google's metadata server."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = urlsplit(head.split()[1])
        github = target.path == "/token" and "authorization: bearer request-token" in head.lower()
        google = (
            target.path.endswith("/service-accounts/default/identity")
            and "metadata-flavor: google" in head.lower()
        )
        good = (github or google) and parse_qs(target.query).get("audience") == [self.url]
        body = (json.dumps({"value": self._ci_token}) if github else self._ci_token) if good else "no"
        status = "200 OK" if good else "403 Forbidden"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def unsafe(events: list[dict[str, Any]]) -> str:
    """Why users met a revision before its gate and its staging suite passed; empty: they did not.

    Reads the record of the cloud and of the narthex commands only, whatever the pipeline printed.
    """
    first = f"{SERVICE}-00001-abc"
    passed: set[str] = set()
    for event in events:
        if event["event"] == "deploy":
            passed.clear()
        elif event["event"] == "narthex" and event["code"] == 0:
            passed.add(event["words"][0])
        for revision, share in event.get("traffic", {}).items():
            if revision != first and not {"gate", "test"} <= passed:
                return f"{revision} got {share} % of the traffic after {event['event']}, with {sorted(passed)} passed"
    return ""


def record(code: str, words: list[str]) -> None:
    """Add the end of a narthex command to the events."""
    path = Path(os.environ["FAKE_CLOUD"])
    state = json.loads(path.read_text())
    state["events"].append({"event": "narthex", "code": int(code), "words": words})
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state, indent=1))
    fresh.replace(path)


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2:])
