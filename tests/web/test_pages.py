"""The pages' routes: caching, headers, and answers without a bundle."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from narthex.web.pages import SECURITY_HEADERS, routes

SCRIPT = b"console.log('narthex');" * 100


def build(directory: Path, script: bytes = SCRIPT, *, dashboard: bool = False) -> str:
    """Write a bundle as web/build.mjs does; returns the script's name."""
    name = f"chat-{sha256(script).hexdigest()[:8]}.js"
    files = {
        name: script,
        "chat.html": f'<script src="/static/{name}"></script>'.encode(),
        "icon.svg": b"<svg/>",
    }
    pages = {"chat": "chat.html"}
    if dashboard:
        files["dashboard.html"] = b"numbers"
        pages["dashboard"] = "dashboard.html"
    for file, body in files.items():
        (directory / file).write_bytes(body)
    listed = {
        file: {
            "sha256": sha256(body).hexdigest(),
            "bytes": len(body),
            "immutable": not file.endswith(".html"),
        }
        for file, body in files.items()
    }
    (directory / "manifest.json").write_text(json.dumps({"pages": pages, "files": listed}))
    return name


def client(directory: Path) -> TestClient:
    """A client of an application that has only the pages."""
    return TestClient(Starlette(routes=routes(directory)))


def test_page_is_asked_for_again_and_its_script_never(tmp_path: Path) -> None:
    """The HTML must be revalidated; files with a hash in the name are immutable."""
    name = build(tmp_path)
    with client(tmp_path) as http:
        page = http.get("/")
        script = http.get(f"/static/{name}")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert script.content == SCRIPT


@pytest.mark.parametrize("path", ["/", "/static/icon.svg", "/static/missing.js"])
def test_every_answer_carries_the_security_headers(tmp_path: Path, path: str) -> None:
    """A page, a file and a miss have the same headers for framing, sniffing and sources."""
    build(tmp_path)
    with client(tmp_path) as http:
        answer = http.get(path)
    for header, value in SECURITY_HEADERS.items():
        assert answer.headers[header] == value
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_etag_answers_304_zipped_or_not(tmp_path: Path) -> None:
    """Either form of its tag gives 304, and no other value does."""
    name = build(tmp_path)
    with client(tmp_path) as http:
        zipped = http.get(f"/static/{name}", headers={"Accept-Encoding": "gzip"})
        plain = http.get(f"/static/{name}", headers={"Accept-Encoding": "identity"})
        known = [
            http.get(f"/static/{name}", headers={"If-None-Match": tag}).status_code
            for tag in (
                zipped.headers["etag"],
                plain.headers["etag"],
                "*",
                f'"x", {plain.headers["etag"]}',
                '"x"',
            )
        ]
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.content == plain.content == SCRIPT
    assert zipped.headers["etag"] == "W/" + plain.headers["etag"]
    assert int(zipped.headers["content-length"]) == len(gzip.compress(SCRIPT, 6, mtime=0))
    assert known == [304, 304, 304, 304, 200]


@pytest.mark.parametrize(
    "path", ["/static/manifest.json", "/static/chat.html", "/static/..%2fpages.py", "/static/%2e%2e/pages.py"]
)
def test_only_listed_files_are_served(tmp_path: Path, path: str) -> None:
    """Neither the manifest, nor a page under a second address, nor a file outside."""
    build(tmp_path)
    with client(tmp_path) as http:
        assert http.get(path).status_code == 404


def test_missing_bundle_is_said(tmp_path: Path) -> None:
    """Without a bundle `/` is a 503 page with the remedy, not a blank one."""
    with client(tmp_path) as http:
        answer = http.get("/")
    assert answer.status_code == 503
    assert "were not built" in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_broken_bundle_counts_as_none(tmp_path: Path) -> None:
    """A manifest that names a missing file must not break the start."""
    name = build(tmp_path)
    (tmp_path / name).unlink()
    with client(tmp_path) as http:
        assert http.get("/").status_code == 503


def test_new_build_is_served_without_a_restart(tmp_path: Path) -> None:
    """`npm run build` while the gateway runs shows on the next load."""
    build(tmp_path)
    with client(tmp_path) as http:
        http.get("/")
        name = build(tmp_path, b"let it = 'be new';" * 100)
        assert name in http.get("/").text
        assert http.get(f"/static/{name}").status_code == 200


def test_further_pages_have_a_route_only_when_they_were_built(tmp_path: Path) -> None:
    """`/dashboard` and `/status` are 404 until a page exists for them."""
    build(tmp_path, dashboard=True)
    with client(tmp_path) as http:
        assert http.get("/dashboard").text == "numbers"
        assert http.get("/status").status_code == 404
        assert http.head("/dashboard").status_code == 200
        assert http.post("/dashboard").status_code == 405


def test_bundle_in_the_package_is_whole() -> None:
    """Each script, style and icon that the built page names is served; nothing is inline or from elsewhere."""
    with TestClient(Starlette(routes=routes())) as http:
        page = http.get("/")
        assert page.status_code == 200, "build the pages first: npm ci && npm run build in web/"
        named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(named) >= 4
        for path in named:
            assert path.startswith("/static/")
            assert http.get(path).status_code == 200
    assert not re.findall(r"<style|<script(?![^>]*\bsrc=)|\son\w+=|javascript:", page.text)


def test_the_helper_is_served_for_pages_of_any_site() -> None:
    """As one module, and as a package that npm installs from its URL; both may be revalidated."""
    with TestClient(Starlette(routes=routes())) as http:
        module = http.get("/static/client.js")
        package = http.get("/static/narthex-client.tgz")
    for answer, kind in ((module, "text/javascript; charset=utf-8"), (package, "application/gzip")):
        assert answer.status_code == 200, "build it first: npm ci && npm run build in web/"
        assert answer.headers["content-type"] == kind
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["cache-control"] == "no-cache"
    assert "narthexWebSocket" in module.text
    with tarfile.open(fileobj=io.BytesIO(package.content), mode="r:gz") as archive:
        names = archive.getnames()
        stream = archive.extractfile("package/package.json")
        assert stream is not None
        manifest = json.loads(stream.read())
    assert {"package/dist/index.js", "package/dist/index.d.ts", "package/README.md"} <= set(names)
    assert manifest["name"] == "@narthex/client"
    assert "scripts" not in manifest
    assert manifest["exports"]["."]["import"] == "./dist/index.js"
