"""OpenTelemetry's own variables, as far as they decide whether and how this process traces.

Not here: the others (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_*`, limits of
spans), which the SDK reads itself. Rules: the names and values are those of the OpenTelemetry specification; a value
that the SDK would replace in silence by something costly, or that this program cannot do, is a problem.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

from narthex.domain.endpoints import http_url

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER: Final = "OTEL_TRACES_EXPORTER"
SAMPLER: Final = "OTEL_TRACES_SAMPLER"
SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
DISABLED: Final = "OTEL_SDK_DISABLED"
PROTOCOL: Final = "http/protobuf"
RATIOS: Final = ("traceidratio", "parentbased_traceidratio")
SAMPLERS: Final = (
    *("always_on", "always_off", "parentbased_always_on", "parentbased_always_off"),
    *RATIOS,
)
HEADERS: Final = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")


def tracing_variable(environ: Mapping[str, str]) -> str:
    """The variable that turns tracing on; empty: it is off."""
    exporter = _value(environ, EXPORTER)
    if _value(environ, DISABLED) == "true" or exporter == "none":
        return ""
    named = next((name for name in ENDPOINTS if environ.get(name, "").strip()), "")
    return named or (EXPORTER if exporter == "otlp" else "")


def tracing_problems(environ: Mapping[str, str]) -> Iterator[str]:
    """Each value that narthex cannot follow, as a sentence; none while tracing is off."""
    exporter = _value(environ, EXPORTER)
    if not tracing_variable(environ):
        return
    if exporter not in ("", "otlp"):
        yield f"{EXPORTER} is {exporter[:60]!r}. narthex exports otlp or none: set one of them, or unset it."
    for name in ENDPOINTS:
        if (url := environ.get(name, "").strip()) and http_url(url) is None:
            yield f"{name} is no http:// or https:// URL. Give the collector's, such as http://127.0.0.1:4318."
    for name in PROTOCOLS:
        if (protocol := _value(environ, name)) not in ("", PROTOCOL):
            yield (
                f"{name} is {protocol[:60]!r}. narthex speaks {PROTOCOL}: unset it, and name the collector's port for "
                "HTTP, usually 4318."
            )
    sampler = _value(environ, SAMPLER)
    if sampler not in ("", *SAMPLERS):
        yield f"{SAMPLER} is {sampler[:60]!r}. Give one of {', '.join(SAMPLERS)}."
    elif sampler in RATIOS and not _is_ratio(environ.get(SAMPLER_ARG, "1")):
        yield f"{SAMPLER_ARG} is no number from 0 to 1. Give the share of traces to record, such as 0.01."


def header_secrets(environ: Mapping[str, str]) -> list[str]:
    """The values of the exporter's headers, which are credentials more often than not."""
    pairs = (pair for name in HEADERS for pair in environ.get(name, "").split(","))
    return [value.strip() for pair in pairs if (value := pair.partition("=")[2]).strip()]


def _value(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name, "").strip().lower()


def _is_ratio(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and 0 <= number <= 1
