"""A collector for tests: takes OTLP over HTTP and decodes it with the official protobuf package.

Not here: the exporter. Rules: its threads end with it; a wait is for spans, never for luck.
"""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.timing import within

KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in trace_pb2.Span.SpanKind.items()}


class SpanEvent(NamedTuple):
    """An event of a span."""

    name: str
    at: int
    attributes: dict[str, Any]


class SeenSpan(NamedTuple):
    """A span as the wire has it. Moments are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    began: int
    ended: int
    attributes: dict[str, Any]
    events: list[SpanEvent]
    links: list[str]
    error: bool
    resource: dict[str, Any]
    state: str


class Collector:
    """See the module; `collector()` makes one.

    Attributes:
        spans: in the order of arrival.
        bodies: what came, decompressed.
        headers: of each request.
        status: of every answer.
        delay_s: before every answer.
    """

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.delay_s = 0.0
        self.released = threading.Event()
        self._moved = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """One request; returns the status of its answer."""
        assert path == "/v1/traces"
        assert headers["content-type"] == "application/x-protobuf"
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with self._moved:
            self.headers.append(headers)
            if self.status == 200:
                self.bodies.append(body)
                self.spans += _decoded(ExportTraceServiceRequest.FromString(body))
            self._moved.notify_all()
        self.released.wait(self.delay_s)
        return self.status

    def until(self, enough: Callable[[list[SeenSpan]], Any], units: float = 20) -> list[SeenSpan]:
        """Wait until `enough(spans)` is true; blocks: call it on a thread."""
        ends = time.monotonic() + within(units)
        with self._moved:
            while not enough(self.spans):
                left = ends - time.monotonic()
                assert left > 0, f"only these spans came: {[span.name for span in self.spans]}"
                self._moved.wait(left)
            return list(self.spans)

    def named(self, name: str) -> list[SeenSpan]:
        """The spans of a name."""
        return [span for span in self.spans if span.name == name]

    def close(self) -> None:
        """End it, and the threads of its requests."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """A running collector."""
    made = Collector()
    try:
        yield made
    finally:
        made.close()


def waterfall(spans: list[SeenSpan], width: int = 40) -> str:
    """The spans of one trace as lines: a bar for the time of each, its name below its parent's, and where it ran."""
    by_parent: dict[str, list[SeenSpan]] = {}
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda one: one.began):
        by_parent.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    first, last = min(span.began for span in spans), max(span.ended for span in spans)
    scale = width / max(1, last - first)
    lines: list[str] = []

    def add(parent: str, depth: int) -> None:
        for span in by_parent.get(parent, []):
            left = int((span.began - first) * scale)
            length = max(1, round((span.ended - span.began) * scale))
            bar = (" " * left + "█" * length)[:width].ljust(width)
            where = span.resource.get("service.name", "")
            lines.append(f"{bar} {'  ' * depth}{span.name} ({span.kind}, {where})")
            add(span.span_id, depth + 1)

    add("", 0)
    return "\n".join(lines)


def _handler(owner: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", "0")))
            status = owner.take(self.path, headers, body)
            answer = ExportTraceServiceResponse().SerializeToString()
            with contextlib.suppress(OSError):  # the exporter has given up
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            """Say nothing."""

    return Handler


def _decoded(request: ExportTraceServiceRequest) -> Iterator[SeenSpan]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    KINDS[span.kind],
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    [SpanEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events],
                    [link.trace_id.hex() + "-" + link.span_id.hex() for link in span.links],
                    span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    resource,
                    span.trace_state,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in _typed(pairs)}


def _typed(pairs: Any) -> Iterator[KeyValue]:
    yield from pairs


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, str(kind)) if kind else None
