"""Counting with prometheus-client: `ports.telemetry.Meter` over the metrics of `catalogue.py`.

Not here: the events that are counted (each component), the route (`web/health.py`). Rules: no method raises or waits;
the children of a metric are bound once and then found in a dict; a metric has at most `MAX_CHILDREN` label sets, so
that no mistake in a label can fill the memory. Counters of every handshake are plain numbers (`_Tally`), which move
to prometheus-client when a scraper reads: its own take a lock, and seven of them were 8 µs of a handshake. Numbers that
a component keeps itself (`read_from`) are read at the same time. So counting and reading belong to one thread, the
loop's. With several processes on one port, `multiprocess.prepare` must have run before this module is imported
(prometheus-client looks at the environment at import): any process answers for all, from the files of each. Counters
of handshakes are then written at once, everything else by `settle`, which wiring calls every second.

Exemplars are kept here, the last trace id of each series, and put into OpenMetrics text only. With several processes
the answer has those of the process that answered.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import prometheus_client as prometheus
from prometheus_client import multiprocess
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from narthex.adapters.telemetry.catalogue import CATALOGUE, PREFIX, QUICK_BUCKETS, Metric
from narthex.adapters.telemetry.figures import add_figures
from narthex.domain.figures import Figures
from narthex.ports.telemetry import Source

# `_created` would be a second series for each counter, which no rule of ours reads.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]

CLASSES: Final = ("user", "guest", "e2e")
MAX_CHILDREN: Final = 500  # 30 refusal codes × 4 classes × 3 outcomes is 360, the largest closed set
MAX_OBSERVERS: Final = 1_000  # some 100 engine operations and 50 methods
CONTENT_TYPE: Final = prometheus.CONTENT_TYPE_PLAIN_1_0_0
BREAKER_STATES: Final = {"closed": 0, "half_open": 1, "open": 2}
_OTHER: Final = "other"
_HANDSHAKES: Final = PREFIX + "handshakes"
_HANDSHAKE_SECONDS: Final = PREFIX + "handshake_seconds"


class _Tally:
    """Counts of one label set that prometheus-client does not have yet."""

    __slots__ = ("child", "count")

    def __init__(self, child: Any) -> None:
        self.child = child
        self.count = 0


class _Durations:
    """Observations that prometheus-client does not have yet, by bucket."""

    __slots__ = ("_bounds", "_histogram", "counts", "seconds")

    def __init__(self, histogram: Any, bounds: tuple[float, ...]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def add(self, duration_s: float) -> None:
        """One observation."""
        self.counts[bisect_left(self._bounds, duration_s)] += 1
        self.seconds += duration_s

    def settle(self) -> None:
        """Hand them over. The library takes one observation at a time, or its own buckets."""
        if any(self.counts):
            for at, count in enumerate(self.counts):
                self._histogram._buckets[at].inc(count)  # noqa: SLF001 - see above; a test compares with `observe`
            self._histogram._sum.inc(self.seconds)  # noqa: SLF001 - likewise
            self.counts = [0] * len(self.counts)
            self.seconds = 0.0


class _Exemplars:
    """The last trace of each bucket of `handshake_seconds`, and of each label set of `handshakes`."""

    def __init__(self) -> None:
        self._of_buckets: list[tuple[str, float, float] | None] = [None] * (len(QUICK_BUCKETS) + 1)
        self._of_counters: dict[
            tuple[str, ...], tuple[str, float, float]
        ] = {}  # at most MAX_CHILDREN label sets

    def add(self, key: tuple[str, ...], duration_s: float, trace_id: str) -> None:
        """One handshake's."""
        now = time.time()
        self._of_buckets[bisect_left(QUICK_BUCKETS, duration_s)] = (trace_id, duration_s, now)
        if key in self._of_counters or len(self._of_counters) < MAX_CHILDREN:
            self._of_counters[key] = (trace_id, 1.0, now)

    def into(self, families: Iterable[prometheus.Metric]) -> Iterator[prometheus.Metric]:
        """The same families, with exemplars where there are any."""
        for family in families:
            if family.name in (_HANDSHAKES, _HANDSHAKE_SECONDS):
                for at, sample in enumerate(family.samples):
                    found = None
                    if sample.name == _HANDSHAKE_SECONDS + "_bucket":
                        found = self._of_buckets[bisect_left(QUICK_BUCKETS, float(sample.labels["le"]))]
                    elif sample.name == _HANDSHAKES + "_total":
                        labels = sample.labels
                        key = ("handshakes", labels["outcome"], labels["code"], labels["class"])
                        found = self._of_counters.get(key)
                    if found is not None:
                        trace_id, value, seen_at = found
                        exemplar = Exemplar({"trace_id": trace_id}, value, round(seen_at, 3))
                        family.samples[at] = sample._replace(exemplar=exemplar)
            yield family


class _Families(Collector):
    """Families that were collected already, for an encoder."""

    def __init__(self, families: Iterable[prometheus.Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[prometheus.Metric]:
        """See the library."""
        return self._families


class PrometheusMeter:
    """The process's meter. One per process: a registry of its own, so tests can make many."""

    def __init__(self, *, version: str = "", environment: str = "") -> None:
        self._registry = prometheus.CollectorRegistry()
        self._declared = {metric.name: (metric, _make(metric, self._registry)) for metric in CATALOGUE}
        self._children: dict[Any, Any] = {}
        self._sizes: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._handshake_seconds = self._declared["handshake_seconds"][1]
        self._durations = _Durations(self._handshake_seconds, QUICK_BUCKETS)
        self._observers: dict[tuple[str, ...], _Durations] = {("handshake_seconds",): self._durations}
        self._exemplars = _Exemplars()
        self._sources: list[Source] = []
        self._totals: dict[Any, float] = {}  # of counters that sources keep, as they were read last
        self._tallies: dict[tuple[str, ...], _Tally] = {}
        self._by_child: dict[Any, _Tally] = {}  # of `_tallies`, and one for each metric's `other`
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if not self._multiprocess:
            prometheus.ProcessCollector(registry=self._registry)
            prometheus.GCCollector(registry=self._registry)
        self._declare_zeroes()
        if version:
            self.gauge("info", 1, version=version, environment=environment)

    @property
    def shared(self) -> bool:
        """Whether several processes on one port answer for one another; then call `settle` every second."""
        return self._multiprocess

    def _declare_zeroes(self) -> None:
        """Show series without labels, and those that alerts use, from the start: an increase needs a first value."""
        for traffic in CLASSES:
            self._child("connections_active", (traffic,))
        for metric in CATALOGUE:
            for labels in metric.from_start:
                self._child(metric.name, labels)

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

    def settle(self) -> None:
        """Hand everything counted since to prometheus-client. Called before anything is read; with several processes
        also every second, and at the end.
        """
        for tally in self._by_child.values():
            count, tally.count = tally.count, 0
            if count:
                tally.child.inc(count)
        for durations in self._observers.values():
            durations.settle()
        for source in self._sources:
            for name, labels, value in source():
                self._take(name, labels, value)

    def _take(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """One reading of a source."""
        declared = self._declared.get(name)
        if declared is None or declared[0].kind == "histogram" or len(labels) != len(declared[0].labels):
            self._declared["undeclared_metrics"][1].inc()
            return
        child = self._child(name, labels)
        if declared[0].kind == "gauge":
            child.set(value)
            return
        before = self._totals.get((name, labels), 0.0)
        if value > before:
            child.inc(value - before)
            self._totals[name, labels] = value

    # -- the hot path ------------------------------------------------------------------------------------------

    def handshake(self, outcome: str, code: str, traffic: str, duration_s: float, trace_id: str = "") -> None:
        """`narthex_handshakes_total{outcome,code,class}` and `narthex_handshake_seconds`."""
        key = ("handshakes", outcome, code, traffic)
        self._add(key, 1)
        if traffic != "probe":  # health's own handshakes are no users'
            if self._multiprocess:
                self._handshake_seconds.observe(duration_s)
            else:
                self._durations.add(duration_s)
            if trace_id:
                self._exemplars.add(key, duration_s, trace_id)

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
        """Add to counter `narthex_<name>_total`; 0 shows its series, a negative amount adds nothing."""
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

    def observer(self, name: str, **labels: str) -> Callable[[float], None]:
        """The bound method that observes in histogram `narthex_<name>`; one of a wrong name observes nothing."""
        child = self._find(name, "histogram", labels)
        if child is None:
            return lambda _: None
        key = (name, *(str(labels[label]) for label in self._declared[name][0].labels))
        durations = self._observers.get(key)
        if durations is None:
            durations = _Durations(child, self._declared[name][0].buckets)
            if len(self._observers) < MAX_OBSERVERS:
                self._observers[key] = durations
        return durations.add

    def read_from(self, source: Source) -> None:
        """See the port. A source that raises ends the reading: it reads plain attributes, so that is a bug."""
        self._sources.append(source)

    # -- reading -----------------------------------------------------------------------------------------------

    def figures(self, shown: Mapping[str, int]) -> Figures:
        """The values of metrics in this process, as `domain.figures` keeps them: by name, the labels to keep."""
        self.settle()
        found = Figures({}, {}, {}, {})
        for name, labels in shown.items():
            metric, parent = self._declared[name]
            add_figures(found, metric, parent.collect()[0].samples, labels)
        return found

    def families(self) -> list[prometheus.Metric]:
        """Every metric of the whole gateway as of now (with several processes: of all of them)."""
        return list(self._collected())

    def _collected(self) -> Iterable[prometheus.Metric]:
        """As `families`; with several processes their files are read when this is iterated, in any thread."""
        self.settle()
        if not self._multiprocess:
            return list(self._registry.collect())
        registry = prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry.collect()

    def render(self) -> bytes:
        """Prometheus text of `families`. `CONTENT_TYPE` names it."""
        return prometheus.generate_latest(_Families(self.families()))

    def scraped(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """A function that writes the text that an `Accept` header asks for (Prometheus, or OpenMetrics with exemplars),
        and its content type. The numbers are those of now; writing takes 10 to 25 ms and may be done in a thread.
        """
        encode, content_type = choose_encoder(accept)
        families = self._collected()
        if content_type.startswith("application/openmetrics-text"):
            families = self._exemplars.into(families)
        else:
            encode, content_type = prometheus.generate_latest, CONTENT_TYPE
        return partial(encode, _Families(families)), content_type

    def counts(self, name: str) -> dict[tuple[str, ...], float]:
        """The values of a counter of this process by its labels, since it began."""
        self.settle()
        return {
            labels: child._value.get()  # noqa: SLF001 - the library has no public way to read one child
            for (found, *rest), child in self._children.items()
            if found == name and (labels := tuple(rest)) is not None
        }

    def numbers(self) -> dict[str, dict[str, int]]:
        """The member `metrics` of `/ws/health`, of this process: without the probe's own connections."""
        self.settle()
        by_class = {name: self._active[name] for name in CLASSES}
        admitted = total = 0
        refused: Counter[str] = Counter()
        for (name, *labels), child in self._children.items():
            if name == "handshakes" and labels[2] != "probe":
                count = int(child._value.get())  # noqa: SLF001 - the library has no public way to read one child
                total += count
                if labels[0] == "admitted":
                    admitted += count
                # `inert` ones are neither: they may still prove themselves.
                elif labels[0] == "refused" and count:
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
