"""What tracing costs: server CPU of handshakes, fan-out and runs, in turn in one run.

    A  the sources before tracing (`--before DIR`, the `src` of a checkout), if given
    B  these sources, tracing off
    C  these sources, one trace in a hundred exported to a collector

    git worktree add /tmp/before COMMIT && python benchmarks/tracing_cost.py --before /tmp/before/src

Prints CPU per operation, the ratio to the first of them, and the difference of a handshake in µs. The bounds: C at
most 3 % more on the fan-out and 10 µs more on a handshake than A. Not here: the bounds as a test
(tests/bench/test_tracing_cost.py).
"""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import AbstractContextManager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median

from narthex.bench.generator import GeneratorJob, measure
from narthex.bench.load.dialects import BenchTarget
from narthex.bench.rounds import AGENT
from narthex.bench.servers import narthex_server

SCENARIOS = {
    "handshakes": {"count": 2000, "in_flight": 20},
    "fanout": {"subscribers": 1000, "in_flight": 8, "publishes": 240, "size": 128},
    "runs": {"count": 50, "rate": 50, "seconds": 4},
}


class Sink(BaseHTTPRequestHandler):
    """A collector that takes everything."""

    def do_POST(self) -> None:
        """200, and an empty answer."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default="", help="`src` of a checkout without tracing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ratio", default="0.01", help="OTEL_TRACES_SAMPLER_ARG of C")
    parser.add_argument("scenarios", nargs="*", help=", ".join(SCENARIOS))
    given = parser.parse_args()
    sink = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    on = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink.server_port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": given.ratio,
    }
    servers = {"B off": {}, f"C {float(given.ratio):.0%}": on}
    if given.before:
        servers = {"A before": {"PYTHONPATH": given.before}} | servers
    for scenario in given.scenarios or SCENARIOS:
        report(scenario, measured(scenario, servers, given.rounds))
    sink.shutdown()


def measured(scenario: str, servers: dict[str, dict[str, str]], rounds: int) -> dict[str, list[float]]:
    """CPU µs per operation by server and round; the servers take turns within each round, the first one changing."""
    found: dict[str, list[float]] = {name: [] for name in servers}
    opened: list[AbstractContextManager[BenchTarget]] = [
        partial(narthex_server, name, arguments=AGENT, extra=extra)() for name, extra in servers.items()
    ]
    targets = [one.__enter__() for one in opened]
    try:
        for target in targets:  # the first connections import and allocate
            measure(GeneratorJob(scenario=scenario, target=target, options=SCENARIOS[scenario]))
        for number in range(rounds):
            for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                figure = measure(GeneratorJob(scenario=scenario, target=target, options=SCENARIOS[scenario]))
                assert figure.cpu_us is not None, "the server's CPU cannot be read"
                assert not figure.failures, figure.notes
                found[target.name].append(figure.cpu_us)
                print(f"{scenario} {number + 1} {target.name}: {figure.cpu_us:.2f} µs", file=sys.stderr)
    finally:
        for one in reversed(opened):
            one.__exit__(None, None, None)
    return found


def report(scenario: str, found: dict[str, list[float]]) -> None:
    """One line for each server: the median of its rounds, and of the rounds' ratios to the first server."""
    first = next(iter(found))
    for name, figures in found.items():
        ratios = [one / other for one, other in zip(figures, found[first], strict=True)]
        more = [one - other for one, other in zip(figures, found[first], strict=True)]
        print(
            f"{scenario:11} {name:9} {median(figures):9.2f} µs   ratio to {first[0]} {median(ratios):.3f} "
            f"({min(ratios):.3f} … {max(ratios):.3f})   {median(more):+.2f} µs"
        )


if __name__ == "__main__":
    main()
