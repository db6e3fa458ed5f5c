"""`narthex bench` on the real gateway: every scenario at its smallest, on one child server."""

from __future__ import annotations

from typing import Any, Final

import pytest

from narthex.bench.generator import GeneratorJob, measure
from narthex.bench.rounds import AGENT
from narthex.bench.servers import narthex_server

JOBS: Final[list[tuple[str, dict[str, Any], int]]] = [
    ("handshakes", {"count": 100, "in_flight": 10}, 100),
    ("echo", {"sockets": 5, "count": 200, "size": 40}, 200),
    ("fanout", {"subscribers": 40, "in_flight": 4, "publishes": 12, "size": 128}, 480),
    ("idle", {"sockets": 60, "hold_s": 0.5}, 60),
    ("storm", {"sockets": 60, "in_flight": 30}, 60),
]


@pytest.mark.acceptance
def test_the_gateway_is_measured_without_a_failure() -> None:
    """Tokens are admitted, deliveries are all counted, each run is proven on both of its sockets."""
    with narthex_server("narthex", arguments=AGENT) as target:
        for scenario, options, operations in JOBS:
            figure = measure(GeneratorJob(scenario=scenario, target=target, options=options))
            assert (figure.failures, figure.operations, figure.notes) == (0, operations, []), scenario
        runs = measure(
            GeneratorJob(scenario="runs", target=target, options={"count": 4, "rate": 50, "seconds": 1})
        )
        assert (runs.failures, runs.notes, runs.values["proven_sockets"]) == (0, [], 8.0)
