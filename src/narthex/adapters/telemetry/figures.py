"""Turns a metric's samples into `domain.figures.Figures`. Not here: which metrics there are (`catalogue.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

from narthex.adapters.telemetry.catalogue import Metric
from narthex.domain.figures import Figures, Histogram, total


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


def add_figures(found: Figures, metric: Metric, samples: Iterable[MetricSample], labels: int) -> None:
    """Add a metric's samples, in the order in which prometheus-client gives them: a histogram's buckets ascend.

    A gauge of mode `livesum` adds up over processes; one of another mode does not, and is a peak. Of the metric's
    labels the first `labels` are kept; series that differ in the others are one.
    """
    kept = metric.labels[:labels]
    if metric.kind == "histogram":
        _add_histograms(found, metric, samples, kept)
        return
    for sample in samples:
        key = "|".join([metric.name, *(sample.labels[label] for label in kept)])
        if metric.kind == "gauge" and metric.mode != "livesum":
            found.peaks[key] = max(found.peaks.get(key, sample.value), sample.value)
        elif metric.kind == "gauge":
            found.gauges[key] = found.gauges.get(key, 0.0) + sample.value
        elif sample.value and not sample.name.endswith("_created"):  # a missing counter is 0 to all readers
            found.counters[key] = found.counters.get(key, 0.0) + sample.value


def _add_histograms(
    found: Figures, metric: Metric, samples: Iterable[MetricSample], kept: tuple[str, ...]
) -> None:
    cumulative: dict[tuple[str, ...], list[int]] = {}
    sums: dict[tuple[str, ...], float] = {}
    for sample in samples:
        series = tuple(sample.labels[label] for label in metric.labels)
        if sample.name.endswith("_bucket"):
            cumulative.setdefault(series, [0]).append(int(sample.value))
        elif sample.name.endswith("_sum"):
            sums[series] = sample.value
    rows = [
        Figures(
            histograms={
                "|".join([metric.name, *series[: len(kept)]]): Histogram(
                    [high - low for low, high in pairwise(counts)], round(sums.get(series, 0.0), 6)
                )
            }
        )
        for series, counts in cumulative.items()
    ]
    found.histograms.update(total(rows, 1).histograms)
