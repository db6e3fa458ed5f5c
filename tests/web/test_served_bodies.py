"""`narthex.web.served_bodies`: gzip, ETags and 304."""

from __future__ import annotations

import gzip
from random import Random

import pytest
from starlette.requests import Request
from starlette.responses import Response

from narthex.web.served_bodies import WORTH_GZIP, ServedBody

LONG = b"narthex " * WORTH_GZIP


def answered(body: bytes, **headers: str) -> Response:
    """The answer to a GET with these headers."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": raw})
    return ServedBody.of(body, "text/plain", "no-cache").answer(request, {"X-Own": "1"})


def test_the_plain_body_has_a_strong_etag() -> None:
    """And the caller's headers."""
    found = answered(LONG)
    assert (found.status_code, found.body) == (200, LONG)
    assert found.headers["etag"].startswith('"')
    assert (found.headers["vary"], found.headers["cache-control"]) == ("Accept-Encoding", "no-cache")
    assert found.headers["x-own"] == "1"


def test_a_zipped_body_has_a_weak_etag() -> None:
    """Its bytes are other ones; unzipped they are the body."""
    found = answered(LONG, accept_encoding="br, gzip")
    assert gzip.decompress(bytes(found.body)) == LONG
    assert found.headers["content-encoding"] == "gzip"
    assert found.headers["etag"] == f"W/{answered(LONG).headers['etag']}"


@pytest.mark.parametrize("body", [b"short", Random(1).randbytes(4 * WORTH_GZIP)])
def test_a_body_that_gains_nothing_stays_plain(body: bytes) -> None:
    """Also for a client that accepts gzip."""
    found = answered(body, accept_encoding="gzip")
    assert found.body == body
    assert "content-encoding" not in found.headers


@pytest.mark.parametrize("known", ["{0}", "W/{0}", '"other", {0}', "*"])
def test_a_client_that_has_it_gets_304(known: str) -> None:
    """By weak comparison (RFC 9110 section 13.1.2), with the headers of the 200."""
    etag = answered(LONG).headers["etag"]
    found = answered(LONG, if_none_match=known.format(etag))
    assert (found.status_code, found.body) == (304, b"")
    assert found.headers["etag"] == etag
    assert answered(LONG, if_none_match='"other"').status_code == 200
