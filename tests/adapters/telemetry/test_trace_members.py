"""`adapters.telemetry.trace_members`: records find their trace, on Google's platform by Google's members too."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import structlog

from narthex.adapters.telemetry.logging import configure_logging, get_logger
from narthex.adapters.telemetry.trace_members import add_trace, find_project
from narthex.ports.tracing import Span, within
from tests.spans import Spans

OTHER = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def span(monkeypatch: pytest.MonkeyPatch) -> Span:
    """The span of the work at hand."""
    return Spans(monkeypatch, {}).tracer.begin("x")


@pytest.fixture(autouse=True)
def no_project() -> Iterator[None]:
    """The project's name is the process's."""
    yield
    find_project({})


def test_a_record_has_the_span_of_its_work(span: Span) -> None:
    """A record about another trace keeps that one; outside any work nothing is added."""
    context = span.context
    assert context is not None
    assert add_trace(members := {"event": "x"}) == {}
    assert members == {"event": "x"}
    with within(span):
        plain: dict[str, object] = {}
        same: dict[str, object] = {"trace_id": context.trace_id}
        other: dict[str, object] = {"trace_id": OTHER}
        for record in (plain, same, other):
            add_trace(record)
    assert plain == same == {"trace_id": context.trace_id, "span_id": context.span_id}
    assert other == {"trace_id": OTHER}


def test_google_s_members_name_the_project_s_trace(span: Span) -> None:
    """Span and decision only where they are known."""
    find_project({"K_SERVICE": "chat", "GOOGLE_CLOUD_PROJECT": "my-project"})
    context = span.context
    assert context is not None
    with within(span):
        mine, other = add_trace({}), add_trace({"trace_id": OTHER})
    assert mine == {
        "logging.googleapis.com/trace": f"projects/my-project/traces/{context.trace_id}",
        "logging.googleapis.com/spanId": context.span_id,
        "logging.googleapis.com/trace_sampled": True,
    }
    assert other == {"logging.googleapis.com/trace": f"projects/my-project/traces/{OTHER}"}
    assert add_trace({}) == {}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"GOOGLE_CLOUD_PROJECT": "my-project"},  # not Google's platform
        {"K_SERVICE": "chat", "GOOGLE_CLOUD_PROJECT": 'a"b'},
    ],
)
def test_elsewhere_they_are_left_out(span: Span, environ: dict[str, str]) -> None:
    """Also where the project's name is none."""
    assert find_project(environ) is None
    with within(span):
        assert add_trace({}) == {}


class Metadata(BaseHTTPRequestHandler):
    """Google's metadata server."""

    def do_GET(self) -> None:
        """The project's id, for those who know how to ask."""
        known = (
            self.path == "/computeMetadata/v1/project/project-id"
            and self.headers["Metadata-Flavor"] == "Google"
        )
        self.send_response(200 if known else 403)
        self.send_header("Metadata-Flavor", "Google")
        self.end_headers()
        self.wfile.write(b"project-from-metadata")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def test_the_project_comes_from_the_metadata_server(span: Span) -> None:
    """Asked once, beside the start; one that is away costs the members only."""
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    asking = find_project({"K_SERVICE": "chat", "GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"})
    assert asking is not None
    asking.join()
    thread.join()
    server.server_close()
    with within(span):
        assert "projects/project-from-metadata/traces/" in str(add_trace({}))
    asking = find_project({"K_SERVICE": "chat", "GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}"})
    assert asking is not None
    asking.join()
    with within(span):
        assert add_trace({}) == {}


def test_both_kinds_of_records_are_written_with_them(monkeypatch: pytest.MonkeyPatch, span: Span) -> None:
    """Narthex's own and a library's, as JSON."""
    root, stream = logging.getLogger(), io.StringIO()
    kept, level = list(root.handlers), root.level
    monkeypatch.setenv("K_SERVICE", "chat")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    try:
        configure_logging(log_format="json", level="info", stream=stream, hooks=False)
        with within(span):
            get_logger("narthex.test").info("ours")
            logging.getLogger("a.library").warning("theirs")
    finally:
        structlog.reset_defaults()
        root.handlers[:], root.level = kept, level
        logging.captureWarnings(capture=False)
    records: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert span.context is not None
    assert [one["event"] for one in records] == ["ours", "theirs"]
    for record in records:
        assert (record["trace_id"], record["span_id"]) == (span.context.trace_id, span.context.span_id)
        assert record["logging.googleapis.com/trace"].endswith(span.context.trace_id)
