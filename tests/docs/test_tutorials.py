"""The tutorials as a reader follows them: every command in order, against the real program.

Not here: how a page is followed (`walkthrough`). Hosts of the pages stand for servers of this machine: an issuer, an
nginx, the gateway itself. A block that needs a cloud or a cluster is marked so; `cloud_project` plays its programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import expect

from narthex import client
from narthex.e2e.children import free_port
from narthex.testing import Issuer
from tests.acceptance.chat_page import chromium
from tests.acceptance.program import running
from tests.deploy.programs import program
from tests.docs.blocks import ROOT, blocks_of
from tests.docs.cloud_shell import Cloud, cloud_lines, cloud_run_is_made, cluster_is_made, needs_every_line
from tests.docs.walkthrough import Walkthrough, followed
from tests.services import missing
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(within(300))]
TUTORIALS: Final = ROOT / "docs" / "tutorials"
HERE: Final = {
    "behind-nginx.md",
    "cloud-run.md",
    "guarded-endpoint.md",
    "identity-providers.md",
    "kubernetes.md",
    "own-agent.md",
    "react-page.md",
    "staging-tests.md",
}


MADE: Final = {"cloud-run.md": cloud_run_is_made, "kubernetes.md": cluster_is_made}
"""Pages about a platform → whether users reach what their commands deploy."""


@contextlib.asynccontextmanager
async def tutorial(name: str, folder: Path, **options: Any) -> AsyncIterator[Walkthrough]:
    """The page after all its commands, with its servers running."""
    async with followed(Walkthrough(TUTORIALS / name, made(folder), **options)) as walk:
        yield walk


def made(folder: Path) -> Path:
    """The reader's directory."""
    reader = folder / "reader"
    reader.mkdir(exist_ok=True)
    return reader


def test_every_tutorial_is_followed() -> None:
    """A page without a test, or a command that is only parsed without need, is noticed."""
    assert {path.name for path in TUTORIALS.glob("*.md")} == HERE
    for name in HERE:
        parsed = [block for block in blocks_of(TUTORIALS / name) if block.fate == "parse"]
        slow = [block for block in parsed if block.reason.startswith("it takes minutes")]
        assert parsed == slow, f"{name}: run it, or mark it as `cloud`"


async def test_own_agent(tmp_path: Path) -> None:
    """The agents of the page answer, one of them after a question."""
    async with tutorial("own-agent.md", tmp_path) as walk:
        token = (walk.folder / "agents" / "token.txt").read_text().strip()
        async with client.connect(walk.ws, get_token=lambda: token) as ada:
            run = await ada.start_run("one three")
            await run.wait(within(20))
            assert run.text == "You sent **2** words; the longest is *three*."
        # The second gateway has keys of its own.
        more = f"ws://127.0.0.1:{walk.ports['8001']}/ws"
        other = walk.token("agents", "--data-dir", "more-data", "--sub", "ada")
        async with client.connect(more, get_token=lambda: other) as ada:
            report = await ada.start_run("@report loud")
            await report.wait(within(20))
            assert report.text == "@REPORT LOUD"
            asked = await ada.start_run("@careful please")
            await asked.wait(within(20))
            assert asked.outcome == "interrupt"
            done = await asked.resume(asked.interrupts[0]["id"], {"approved": False})
            await done.wait(within(20))
            assert done.text == "I have deleted nothing."


async def test_guarded_endpoint(tmp_path: Path) -> None:
    """Admission, refusals, the key of end-to-end tests, and the page's own tests: all are shown output."""
    async with tutorial("guarded-endpoint.md", tmp_path) as walk:
        assert "ann: hello" in "".join(walk.printed)


@pytest.mark.browser
async def test_react_page(tmp_path: Path) -> None:
    """The page streams the answer, and shows it again after a reload."""
    if shutil.which("npm") is None:
        missing("npm", "apt-get install nodejs npm")
    async with tutorial("react-page.md", tmp_path) as walk, chromium() as browser:
        page = await browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        await page.goto(f"http://127.0.0.1:{walk.ports['5173']}")
        await expect(page.get_by_role("status")).to_have_text("connected", timeout=within(20) * 1000)
        await page.get_by_label("Message").fill("help")
        await page.get_by_role("button", name="Send").click()
        for _ in range(2):
            await expect(page.locator("li")).to_contain_text("finished", timeout=within(20) * 1000)
            await expect(page.locator("li")).to_contain_text("health")
            await page.reload()
        assert faults == []


async def test_identity_providers(tmp_path: Path) -> None:
    """`narthex check` accepts the settings of each provider; the last section's token is admitted by them."""
    with issuing() as issuer:
        walk = Walkthrough(
            TUTORIALS / "identity-providers.md",
            made(tmp_path),
            env={"NARTHEX_OIDC_ISSUER": issuer.url, "NARTHEX_JWT_AUDIENCE": "narthex"},
        )
        walk.fresh_terminals = True
        (walk.folder / "token.txt").write_text(issuer.token("ada"))
        async with followed(walk):
            *providers, _, inspected = walk.printed
            issuers = [block.text.split("OIDC_ISSUER=")[1].split()[0] for block in walk.blocks[:7]]
            for printed, url in zip(providers, issuers, strict=True):
                assert f"iss {url}," in printed
            assert "Admitted here as default/ada" in inspected


async def test_staging_tests(tmp_path: Path) -> None:
    """Strangers stay out, tests get in by proof, the suite passes, and the gate opens."""
    folder = made(tmp_path)
    with issuing() as issuer:
        elsewhere = tmp_path / "production"
        elsewhere.mkdir()
        # The page's production is a gateway that admits users only: it has no key of end-to-end tests.
        async with running(elsewhere) as production:
            (folder / "token.txt").write_text(production.token("ada"))
            names = {
                "https://staging.example.com": "http://127.0.0.1:8000",
                "https://chat.example.com": production.http,
                "https://id.example.com": issuer.url,
                "/run/secrets/e2e.key": str(folder / "e2e.key"),
            }
            walk = Walkthrough(TUTORIALS / "staging-tests.md", folder, names=names)
            async with followed(walk):
                assert any('"id": "e2e:' in printed for printed in walk.printed)


async def test_behind_nginx(tmp_path: Path) -> None:
    """The rendered configuration, installed by the page's commands, carries the doctor and the gate."""
    nginx = program("nginx", "apt-get install nginx-light")
    folder, etc = made(tmp_path), tmp_path / "etc"
    (etc / "conf.d").mkdir(parents=True)
    port = free_port()
    temporary = "".join(
        f"{name}_temp_path {etc}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (etc / "nginx.conf").write_text(
        f"pid {etc}/pid; error_log {etc}/error.log; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {temporary} include {etc}/conf.d/*.conf; }}\n"
    )
    with issuing() as issuer:
        (folder / "token.txt").write_text(issuer.token("ada"))
        names = {
            "wss://chat.example.com": f"ws://localhost:{port}",
            "https://chat.example.com": f"http://localhost:{port}",
            "chat.example.com": "localhost",
            "https://id.example.com": issuer.url,
            "/etc/nginx/conf.d/": f"{etc}/conf.d/",
        }
        walk = Walkthrough(TUTORIALS / "behind-nginx.md", folder, names=names)
        walk.program("sudo", 'exec "$@"')
        # Port 80 is this machine's own.
        listen = f"s/listen 80;/listen 127.0.0.1:{port};/"
        walk.program("nginx", f'sed -i "{listen}" {etc}/conf.d/*; exec {nginx} -c {etc}/nginx.conf "$@"')
        walk.program("systemctl", 'test "$*" = "reload nginx" && exec nginx')
        try:
            async with followed(walk):
                assert re.search(r"listen 127\.0\.0\.1", (etc / "conf.d" / "narthex.conf").read_text())
        finally:
            if (etc / "pid").exists():
                stop = await asyncio.create_subprocess_exec(
                    nginx, "-c", str(etc / "nginx.conf"), "-s", "stop"
                )
                await stop.wait()


@pytest.mark.parametrize("name", MADE)
async def test_a_platform(name: str, tmp_path: Path) -> None:
    """The reader's own machine renders and checks the manifests; the cloud's commands fit together and to them."""
    async with tutorial(name, tmp_path) as walk:
        assert "0 error(s)" in "".join(walk.printed)
        here = walk.folder / "chat"
        for file in ("fullchain.pem", "privkey.pem"):
            (here / file).write_text("a reader has these from an authority\n")
        await needs_every_line(Cloud(here, tmp_path), cloud_lines(TUTORIALS / name), MADE[name])


# -- an issuer on this machine ---------------------------------------------------------------------------------


class LocalIssuer:
    """An OpenID issuer: its discovery document, its keys, and its tokens."""

    def __init__(self) -> None:
        answers: dict[str, Any] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path)
                body = json.dumps(found).encode()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._issuer = Issuer(url=self.url, audience="narthex")
        answers["/.well-known/openid-configuration"] = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }
        answers["/keys"] = json.loads(self._issuer.environ["NARTHEX_JWT_PUBLIC_KEY"])

    def token(self, subject: str) -> str:
        """A token of a user."""
        return self._issuer.valid(subject, ttl_s=3600)


@contextlib.contextmanager
def issuing() -> Iterator[LocalIssuer]:
    """The issuer, served by a thread until the block ends."""
    issuer = LocalIssuer()
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join()
