"""Counting with prometheus-client: `ports.telemetry.Meter` over the metrics of `catalogue.py`.

Not here: the events that are counted (each component), the route (`web/health.py`). Rules: no method raises or waits;
the children of a metric are bound once and then found in a dict; a metric has at most `MAX_CHILDREN` label sets, so
that no mistake in a label can fill the memory. Counters of every handshake are plain numbers (`_Tally`), which move
to prometheus-client when a scraper reads: its own take a lock, and seven of them were 8 µs of a handshake. So
counting and reading belong to one thread, the loop's. With several processes on one port, `multiprocess.prepare` must
have run before this module is imported (prometheus-client looks at the environment at import), and counters are
written at once: any process answers for all, from the files of each.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from typing import Any, Final

import prometheus_client as prometheus
from prometheus_client import multiprocess

from narthex.adapters.telemetry.catalogue import CATALOGUE, PREFIX, QUICK_BUCKETS, Metric

# `_created` would be a second series for each counter, which no rule of ours reads.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

CLASSES: Final = ("user", "guest", "e2e")
MAX_CHILDREN: Final = 500  # 30 refusal codes × 4 classes × 3 outcomes is 360, the largest closed set
CONTENT_TYPE: Final = prometheus.CONTENT_TYPE_PLAIN_1_0_0
BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
_OTHER: Final = "other"


class _Tally:
    """Counts of one label set that prometheus-client does not have yet."""

    __slots__ = ("child", "count")

    def __init__(self, child: Any) -> None:
        self.child = child
        self.count = 0


class _Durations:
    """Handshakes' durations that were not yet told to prometheus-client, by bucket."""

    __slots__ = ("_histogram", "counts", "seconds")

    def __init__(self, histogram: Any) -> None:
        self._histogram = histogram
        self.counts = [0] * (len(QUICK_BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, duration_s: float) -> None:
        """One handshake's."""
        self.counts[bisect_left(QUICK_BUCKETS, duration_s)] += 1
        self.seconds += duration_s

    def settle(self) -> None:
        """Tell them. The library takes one observation at a time, or its own buckets."""
        if any(self.counts):
            for at, count in enumerate(self.counts):
                self._histogram._buckets[at].inc(count)  # noqa: SLF001 - see above; a test compares with `observe`
            self._histogram._sum.inc(self.seconds)  # noqa: SLF001 - likewise
            self.counts = [0] * len(self.counts)
            self.seconds = 0.0


class PrometheusMeter:
    """The process's meter. One per process: a registry of its own, so tests can make many."""

    def __init__(self, *, version: str = "", environment: str = "") -> None:
        self._registry = prometheus.CollectorRegistry()
        self._declared = {metric.name: (metric, _make(metric, self._registry)) for metric in CATALOGUE}
        self._children: dict[Any, Any] = {}
        self._sizes: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._handshake_seconds = self._declared["handshake_seconds"][1]
        self._durations = _Durations(self._handshake_seconds)
        self._tallies: dict[tuple[str, ...], _Tally] = {}
        self._by_child: dict[Any, _Tally] = {}  # of `_tallies`, and one for each metric's `other`
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._multiprocess:
            prometheus.ProcessCollector(registry=self._registry)
            prometheus.GCCollector(registry=self._registry)
        self._declare_zeroes()
        if version:
            self.gauge("info", 1, version=version, environment=environment)

    def _declare_zeroes(self) -> None:
        """Show series without labels, and those that alerts use, from the start: a rate needs a first value."""
        for traffic in CLASSES:
            self._child("connections_active", (traffic,))
        self._child("handshakes", ("admitted", "ok", "user"))

    def _child(self, name: str, values: tuple[str, ...]) -> Any:
        """The bound child of a label set; Any: prometheus-client's three kinds share no base for it."""
        key = (name, *values)
        child = self._children.get(key)
        if child is None:
            metric, parent = self._declared[name]
            if len(values) != len(metric.labels):
                raise ValueError(name)
            if self._sizes[name] >= MAX_CHILDREN:
                values = (_OTHER,) * len(values)
            child = parent.labels(*values) if values else parent
            self._sizes[name] += 1
            if self._sizes[name] <= MAX_CHILDREN:
                self._children[key] = child
        return child

    def _find(self, name: str, kind: str, labels: dict[str, str]) -> Any:
        """The child for a call by name, or None (then the misuse was counted)."""
        declared = self._declared.get(name)
        if declared is None or declared[0].kind != kind or set(labels) != set(declared[0].labels):
            self._declared["undeclared_metrics"][1].inc()
            return None
        return self._child(name, tuple(str(labels[label]) for label in declared[0].labels))

    def _add(self, key: tuple[str, ...], amount: int) -> None:
        """Count in the metric `key[0]` with the labels `key[1:]`; no more than two dict look-ups as a rule."""
        tally = self._tallies.get(key)
        if tally is None:
            child = self._child(key[0], key[1:])
            if self._multiprocess:  # others read what this process has written, at any time
                child.inc(amount)
                return
            tally = self._by_child.get(child)
            if tally is None:
                tally = self._by_child[child] = _Tally(child)
            if key in self._children:  # else it is one of too many label sets
                self._tallies[key] = tally
        tally.count += amount

    def _settle(self) -> None:
        """Tell prometheus-client what was counted since; called before anything is read."""
        for tally in self._by_child.values():
            count, tally.count = tally.count, 0
            if count:
                tally.child.inc(count)
        self._durations.settle()

    # -- the hot path ------------------------------------------------------------------------------------------

    def handshake(self, outcome: str, code: str, traffic: str, duration_s: float) -> None:
        """`narthex_handshakes_total{outcome,code,class}` and `narthex_handshake_seconds`."""
        self._add(("handshakes", outcome, code, traffic), 1)
        if traffic != "probe":  # health's own handshakes are no users'
            if self._multiprocess:
                self._handshake_seconds.observe(duration_s)
            else:
                self._durations.add(duration_s)

    def credential(self, carrier: str, result: str) -> None:
        """`narthex_credential_extractions_total{carrier,result}`."""
        self._add(("credential_extractions", carrier, result), 1)

    def e2e_admission(self, result: str) -> None:
        """`narthex_e2e_admissions_total{result}`."""
        self._child("e2e_admissions", (result,)).inc()

    def e2e_tests(self, result: str, count: int) -> None:
        """`narthex_e2e_tests_total{result}`."""
        if count > 0:
            self._child("e2e_tests", (result,)).inc(count)

    def connections(self, traffic: str, delta: int) -> None:
        """`narthex_connections_active{class}` up or down."""
        self._active[traffic] += delta
        self._add(("connections_active", traffic), delta)

    def disconnect(self, code: int) -> None:
        """`narthex_disconnects_total{code}`; a code that is none of ours counts as its hundred (`47xx`)."""
        label = str(code) if 1000 <= code < 1016 or 3000 <= code < 4100 else f"{code // 100}xx"
        self._add(("disconnects", label), 1)

    def breaker(self, dependency: str, traffic: str, state: str) -> None:
        """`narthex_breaker_state{dependency,class}`."""
        self._child("breaker_state", (dependency, traffic)).set(BREAKER_STATES.get(state, 2))

    # -- by name -----------------------------------------------------------------------------------------------

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to counter `narthex_<name>_total`; a negative amount adds nothing."""
        child = self._find(name, "counter", labels)
        if child is not None and amount > 0:
            child.inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Observe in histogram `narthex_<name>`."""
        child = self._find(name, "histogram", labels)
        if child is not None:
            child.observe(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set gauge `narthex_<name>`."""
        child = self._find(name, "gauge", labels)
        if child is not None:
            child.set(value)

    # -- reading -----------------------------------------------------------------------------------------------

    def render(self) -> bytes:
        """Prometheus text of the whole gateway (with several processes: of all of them). `CONTENT_TYPE` names it."""
        self._settle()
        registry = self._registry
        if self._multiprocess:
            registry = prometheus.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(registry)

    def numbers(self) -> dict[str, dict[str, int]]:
        """The member `metrics` of `/ws/health`, of this process: without the probe's own connections."""
        self._settle()
        by_class = {name: self._active[name] for name in CLASSES}
        admitted = total = 0
        refused: Counter[str] = Counter()
        for (name, *labels), child in self._children.items():
            if name == "handshakes" and labels[2] != "probe":
                count = int(child._value.get())  # noqa: SLF001 - the library has no public way to read one child
                total += count
                if labels[0] == "admitted":
                    admitted += count
                elif labels[0] == "refused":  # `inert` ones are neither: they may still prove themselves
                    refused[labels[1]] += count
        return {
            "websocket": {"active_connections": sum(by_class.values())}
            | {f"active_{name}": count for name, count in by_class.items()},
            "authentication": {"handshakes": total, "admitted": admitted, "not_admitted": total - admitted}
            | {f"refused_{code}": count for code, count in sorted(refused.items())},
        }


def _make(metric: Metric, registry: prometheus.CollectorRegistry) -> Any:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return prometheus.Counter(name, metric.text, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return prometheus.Gauge(
            name, metric.text, metric.labels, registry=registry, multiprocess_mode=metric.mode
        )
    return prometheus.Histogram(name, metric.text, metric.labels, registry=registry, buckets=metric.buckets)
