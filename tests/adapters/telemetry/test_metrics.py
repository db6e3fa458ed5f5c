"""Metrics: names and labels of the design, harmless misuse, several processes, and the cost of counting."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from narthex.adapters.telemetry.catalogue import CATALOGUE, QUICK_BUCKETS
from narthex.adapters.telemetry.metrics import MAX_CHILDREN, PrometheusMeter
from narthex.ports.telemetry import Meter
from tests.timing import TIME_UNIT

SOURCES = Path(__file__).parents[3] / "src" / "narthex"


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(meter: PrometheusMeter) -> Samples:
    """Every sample by name and labels."""
    return parsed(meter.render())


def parsed(text: bytes) -> Samples:
    """Every sample by name and labels."""
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_it_is_the_ports_meter() -> None:
    """For mypy as much as for readers."""
    meter: Meter = PrometheusMeter()
    assert isinstance(meter, PrometheusMeter)


def test_the_names_and_labels_of_the_design() -> None:
    """Others rely on them."""
    declared = {metric.full_name: metric.labels for metric in CATALOGUE}
    expected = {
        "narthex_connections_active": ("class",),
        "narthex_handshakes_total": ("outcome", "code", "class"),
        "narthex_credential_extractions_total": ("carrier", "result"),
        "narthex_e2e_admissions_total": ("result",),
        "narthex_e2e_tests_total": ("result",),
        "narthex_breaker_state": ("dependency", "class"),
        "narthex_events_lost_total": (),
    }
    assert expected.items() <= declared.items()


def test_counting_is_seen() -> None:
    """Each method of the port changes the metric that its docstring names."""
    meter = PrometheusMeter(version="1.2", environment="staging")
    meter.handshake("refused", "auth_required", "user", 0.002)
    meter.credential("cookie", "valid")
    meter.e2e_admission("wrong_key")
    meter.e2e_tests("passed", 7)
    meter.connections("user", 1)
    meter.connections("user", 1)
    meter.connections("user", -1)
    meter.disconnect(3500)
    meter.disconnect(4711)
    meter.breaker("auth", "user", "half_open")
    meter.count("events_lost", 2)
    meter.observe("run_start_seconds", 0.02)
    meter.gauge("runs_active", 3)
    found = samples(meter)
    handshake = (("class", "user"), ("code", "auth_required"), ("outcome", "refused"))
    assert found["narthex_handshakes_total", handshake] == 1
    assert found["narthex_handshake_seconds_count", ()] == 1
    assert found["narthex_credential_extractions_total", (("carrier", "cookie"), ("result", "valid"))] == 1
    assert found["narthex_e2e_admissions_total", (("result", "wrong_key"),)] == 1
    assert found["narthex_e2e_tests_total", (("result", "passed"),)] == 7
    assert found["narthex_connections_active", (("class", "user"),)] == 1
    assert found["narthex_disconnects_total", (("code", "3500"),)] == 1
    assert found["narthex_disconnects_total", (("code", "47xx"),)] == 1
    assert found["narthex_breaker_state", (("class", "user"), ("dependency", "auth"))] == 1
    assert found["narthex_events_lost_total", ()] == 2
    assert found["narthex_run_start_seconds_sum", ()] == 0.02
    assert found["narthex_runs_active", ()] == 3
    assert found["narthex_info", (("environment", "staging"), ("version", "1.2"))] == 1


def test_what_must_stay_zero_is_there_from_the_start() -> None:
    """An alert on a metric that does not exist yet never fires."""
    found = samples(PrometheusMeter())
    assert found["narthex_events_lost_total", ()] == 0
    assert found["narthex_connections_active", (("class", "user"),)] == 0


def test_misuse_is_counted_and_nothing_else_happens() -> None:
    """An unknown name, wrong labels or the wrong kind never raise."""
    meter = PrometheusMeter()
    meter.count("nobody_declared_this")
    meter.count("events_lost", label="x")
    meter.gauge("events_lost", 1)
    meter.observe("runs_active", 1)
    meter.count("events_lost", -5)
    assert samples(meter)["narthex_undeclared_metrics_total", ()] == 4
    assert samples(meter)["narthex_events_lost_total", ()] == 0


def test_labels_cannot_fill_the_memory() -> None:
    """An id used as a label by mistake ends in `other`."""
    meter = PrometheusMeter()
    for number in range(MAX_CHILDREN * 3):
        meter.count("messages_ignored", reason=f"r{number}")
    found = {
        labels: value
        for (name, labels), value in samples(meter).items()
        if name == "narthex_messages_ignored_total"
    }
    assert len(found) == MAX_CHILDREN + 1
    assert found[(("reason", "other"),)] == MAX_CHILDREN * 2


def test_labels_of_the_hot_path_cannot_fill_the_memory() -> None:
    """The same for metrics that are first counted in plain numbers: the excess ends in `other`, and none is lost."""
    meter = PrometheusMeter()
    for number in range(MAX_CHILDREN * 2):
        meter.credential(f"c{number}", "valid")
    found = {
        labels: value
        for (name, labels), value in samples(meter).items()
        if name == "narthex_credential_extractions_total"
    }
    assert len(found) == MAX_CHILDREN + 1
    assert found[(("carrier", "other"), ("result", "other"))] == MAX_CHILDREN


def test_durations_are_told_as_observations_are() -> None:
    """Handshakes are put into buckets here, the same ones that the library would choose."""
    durations = [0.0, 0.0004, 0.0005, 0.00050001, 0.3, 10.0, 11.0, *(bound for bound in QUICK_BUCKETS)]
    meter = PrometheusMeter()
    registry = CollectorRegistry()
    oracle = Histogram("narthex_handshake_seconds", "…", registry=registry, buckets=QUICK_BUCKETS)
    for _ in range(2):  # reading in between changes nothing
        for duration in durations:
            meter.handshake("admitted", "ok", "user", duration)
            oracle.observe(duration)
        found = {key: value for key, value in samples(meter).items() if "handshake_seconds" in key[0]}
        expected = parsed(generate_latest(registry))
        assert found == pytest.approx(expected)
        assert found.keys() == expected.keys()


def test_every_count_is_told_once() -> None:
    """Whatever is read in between, and however often."""
    meter = PrometheusMeter()
    label = (("class", "user"), ("code", "ok"), ("outcome", "admitted"))
    for total in range(1, 4):
        meter.handshake("admitted", "ok", "user", 0.001)
        meter.connections("user", 1)
        assert meter.numbers()["authentication"]["handshakes"] == total
        for _ in range(2):
            found = samples(meter)
            assert found["narthex_handshakes_total", label] == total
            assert found["narthex_handshake_seconds_count", ()] == total
            assert found["narthex_connections_active", (("class", "user"),)] == total


def test_health_numbers_leave_the_probe_out() -> None:
    """`/ws/health` shows users' numbers only."""
    meter = PrometheusMeter()
    meter.handshake("admitted", "ok", "user", 0.001)
    meter.handshake("refused", "token_expired", "user", 0.001)
    meter.handshake("admitted", "ok", "probe", 0.001)
    meter.connections("user", 2)
    meter.connections("probe", 1)
    assert meter.numbers() == {
        "websocket": {"active_connections": 2, "active_user": 2, "active_guest": 0, "active_e2e": 0},
        "authentication": {"handshakes": 2, "admitted": 1, "not_admitted": 1, "refused_token_expired": 1},
    }


def test_every_metric_that_the_sources_name_is_declared_with_these_labels() -> None:
    """At run time a wrong name is only counted, so this test must find it."""
    declared = {metric.name: metric for metric in CATALOGUE}
    kinds = {"count": "counter", "observe": "histogram", "observer": "histogram", "gauge": "gauge"}
    seen = read = 0
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Yield) and (reading := reading_of(node)):
                name, given = reading
                assert name in declared, f"{path.name}:{node.lineno} {name}"
                assert given in (None, len(declared[name].labels)), f"{path.name}:{node.lineno} {name}"
                read += 1
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in kinds
            ):
                continue
            if not ast.unparse(node.func.value).endswith("meter"):
                continue
            name = ast.literal_eval(node.args[0])
            labels = {keyword.arg for keyword in node.keywords} - {"amount", "value"}
            where = f"{path.name}:{node.lineno} {name}"
            assert name in declared, where
            assert declared[name].kind == kinds[node.func.attr], where
            assert labels == set(declared[name].labels), where
            seen += 1
    assert seen > 10
    assert read > 30


def reading_of(node: ast.Yield) -> tuple[str, int | None] | None:
    """Name and number of labels (None: a variable's) of `yield name, labels, value`; None: it yields another thing."""
    match node.value:
        case ast.Tuple(elts=[ast.Constant(value=str() as name), ast.Tuple(elts=labels), _]):
            return name, len(labels)
        case ast.Tuple(elts=[ast.Constant(value=str() as name), ast.Name(id="labels"), _]):
            return name, None
    return None


def test_readings_of_sources_become_gauges_and_counters() -> None:
    """A source's total is counted once, however often it is read, and never falls."""
    meter = PrometheusMeter()
    totals = {"deliveries": 7.0}
    meter.read_from(lambda: [("deliveries", (), totals["deliveries"]), ("runs_active", (), 3)])
    for _ in range(2):
        assert samples(meter)["narthex_deliveries_total", ()] == 7
    totals["deliveries"] = 9.0
    assert samples(meter)["narthex_deliveries_total", ()] == 9
    totals["deliveries"] = 1.0
    assert samples(meter)["narthex_deliveries_total", ()] == 9
    assert samples(meter)["narthex_runs_active", ()] == 3


def test_a_reading_that_nothing_declares_is_counted() -> None:
    """A wrong name or wrong labels of a source raise nothing."""
    meter = PrometheusMeter()
    meter.read_from(lambda: [("nobody", (), 1), ("deliveries", ("label",), 1), ("run_seconds", ("x",), 1)])
    assert samples(meter)["narthex_undeclared_metrics_total", ()] == 3


def test_a_bound_observer_observes() -> None:
    """Its observations are in the histogram when it is read, once."""
    meter = PrometheusMeter()
    observe = meter.observer("command_seconds", method="echo")
    observe(0.003)
    observe(99.0)
    for _ in range(2):
        assert samples(meter)["narthex_command_seconds_count", (("method", "echo"),)] == 2
    assert samples(meter)["narthex_command_seconds_bucket", (("le", "0.005"), ("method", "echo"))] == 1
    assert meter.observer("command_seconds", method="echo") == observe
    meter.observer("nobody")(1.0)
    assert samples(meter)["narthex_undeclared_metrics_total", ()] == 1


def test_exemplars_are_in_openmetrics_text_only() -> None:
    """A scraper that accepts OpenMetrics gets the trace id of a refusal and of a handshake's bucket."""
    meter = PrometheusMeter()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    meter.handshake("refused", "token_expired", "user", 0.004, trace)
    meter.handshake("admitted", "ok", "user", 0.004)  # without a trace: the earlier exemplar stays
    write, content_type = meter.scraped("application/openmetrics-text;version=1.0.0,text/plain;q=0.1")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = {
        (sample.name, sample.labels.get("le", ""), sample.labels.get("code", "")): sample.exemplar.labels
        for family in openmetrics.text_string_to_metric_families(write().decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert found == {
        ("narthex_handshakes_total", "", "token_expired"): {"trace_id": trace},
        ("narthex_handshake_seconds_bucket", "0.005", ""): {"trace_id": trace},
    }
    write, content_type = meter.scraped("text/plain")
    assert trace.encode() not in write()
    assert content_type.startswith("text/plain")


def test_promtool_finds_nothing_to_mend() -> None:
    """Names, types and help as Prometheus expects them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    meter = PrometheusMeter(version="1", environment="testing")
    meter.handshake("admitted", "ok", "user", 0.001)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=meter.render(), capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


CHILD = """
import sys
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.buffers import buffer_readings
meter = PrometheusMeter()
meter.handshake("admitted", "ok", "user", 0.001)
meter.connections("user", 2)
meter.breaker("auth", "user", sys.argv[1])
at = {"closed": 100, "open": 200}[sys.argv[1]]
meter.gauge("keys_fetched_timestamp_seconds", at, issuer="default")
meter.gauge("key_expiry_timestamp_seconds", at, key="default")
meter.read_from(lambda: buffer_readings([("broker_queue", lambda: at, 200)]))
sys.stdout.buffer.write(meter.render() + b"end\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_any_process_answers_for_all(tmp_path: Path) -> None:
    """With several processes on one port, a scrape reaches one of them and must see the whole gateway."""
    from narthex.adapters.telemetry import multiprocess

    left = tmp_path / "counter_1.db"
    left.write_bytes(b"of an earlier life")
    before = os.environ.copy()
    try:
        multiprocess.prepare(tmp_path)
        environ = os.environ.copy()
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert not left.exists()
    children: list[subprocess.Popen[bytes]] = []
    try:
        for state in ("closed", "open"):
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, state],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ,
            )
            children.append(child)
            assert child.stdout is not None
            text = b""
            for line in iter(child.stdout.readline, b"end\n"):
                assert line, text
                text += line
    finally:
        for child in children:
            child.communicate(timeout=30)
    found = parsed(text)
    handshake = (("class", "user"), ("code", "ok"), ("outcome", "admitted"))
    assert found["narthex_handshakes_total", handshake] == 2
    assert found["narthex_connections_active", (("class", "user"),)] == 4
    assert found["narthex_breaker_state", (("class", "user"), ("dependency", "auth"))] == 2
    # Of moments and shares the worst process counts: an alert must not be blind because another one is well.
    assert found["narthex_keys_fetched_timestamp_seconds", (("issuer", "default"),)] == 100
    assert found["narthex_key_expiry_timestamp_seconds", (("key", "default"),)] == 100
    queue = (("buffer", "broker_queue"),)
    assert found["narthex_buffer_fill", queue] == 300
    assert found["narthex_buffer_limit", queue] == 400
    assert found["narthex_buffer_used_ratio", queue] == 1


@pytest.mark.alone
def test_counting_a_handshake_is_cheap() -> None:
    """Measured: 0.4 µs, where the library's own counter and histogram take 2. The bound allows for load."""
    meter = PrometheusMeter()
    rounds = 20_000
    best = min(_seconds(meter, rounds) for _ in range(5))
    assert best / rounds < 10e-6 * TIME_UNIT


def _seconds(meter: PrometheusMeter, rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        meter.handshake("admitted", "ok", "user", 0.0002)
    return time.perf_counter() - began
