"""Turns a metric's samples into `domain.figures.Figures`. Not here: which metrics there are (`catalogue.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from narthex.adapters.telemetry.catalogue import Metric
from narthex.domain.figures import Figures, Histogram


class MetricSample(Protocol):
    """The part of a prometheus-client sample that is read here."""

    @property
    def name(self) -> str:
        """Full name with its suffix."""

    @property
    def labels(self) -> dict[str, str]:
        """By name."""

    @property
    def value(self) -> float:
        """Cumulative in a histogram."""


def add_figures(found: Figures, metric: Metric, samples: Iterable[MetricSample]) -> None:
    """Add a metric's samples, in the order in which prometheus-client gives them: a histogram's buckets ascend.

    A gauge of mode `livesum` adds up over processes; one of another mode does not, and is a peak.
    """
    for sample in samples:
        key = "|".join([metric.name, *(sample.labels[label] for label in metric.labels)])
        if metric.kind == "histogram":
            _add_bucket(found, key, sample)
        elif sample.name.endswith("_created"):
            continue
        elif metric.kind == "counter":
            found.counters[key] = sample.value
        elif metric.mode == "livesum":
            found.gauges[key] = sample.value
        else:
            found.peaks[key] = sample.value


def _add_bucket(found: Figures, key: str, sample: MetricSample) -> None:
    histogram = found.histograms.setdefault(key, Histogram([]))
    if sample.name.endswith("_bucket"):
        histogram.counts.append(int(sample.value) - sum(histogram.counts))
    elif sample.name.endswith("_sum"):
        histogram.total = round(sample.value, 6)
