"""`narthex.settings.tracing`: which of OpenTelemetry's variables turn tracing on, and which values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.errors import ConfigError
from narthex.extras import EXTRAS
from narthex.settings import load
from narthex.settings.requirements import requirements
from narthex.settings.tracing import header_secrets, tracing_problems, tracing_variable

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ""),
        (ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, ""),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, ""),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_SERVICE_NAME": "chat"}, ""),
    ],
)
def test_a_collector_turns_tracing_on(environ: dict[str, str], variable: str) -> None:
    """And OpenTelemetry's own switches turn it off."""
    assert tracing_variable(environ) == variable


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://127.0.0.1:4317", "http://127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "usually 4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%", "such as 0.01"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan", "such as 0.01"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5", "such as 0.01"),
    ],
)
def test_a_value_that_cannot_be_followed_is_a_problem(name: str, value: str, remedy: str) -> None:
    """The problem names the variable and the remedy; while tracing is off no value matters."""
    environ = ENDPOINT | {"OTEL_TRACES_SAMPLER": "traceidratio", name: value}
    [problem] = tracing_problems(environ)
    assert problem.startswith(f"{name} ")
    assert remedy in problem
    with pytest.raises(ConfigError, match=name):
        load({}, environ)
    assert not list(tracing_problems(environ | {"OTEL_SDK_DISABLED": "true"}))


def test_good_values_are_no_problem() -> None:
    """In any case, as the specification compares them."""
    more = {"OTEL_TRACES_SAMPLER": "ParentBased_TraceIdRatio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    assert not list(tracing_problems(ENDPOINT | more | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}))
    assert load({}, ENDPOINT | more).tracing == "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_the_extra_is_needed_only_where_something_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that opens the store alone starts without it."""
    monkeypatch.setitem(EXTRAS, "otel", {"no_such_module": "opentelemetry-sdk"})
    settings = load({}, ENDPOINT)
    assert [need.extra for need in requirements(settings)] == ["otel"]
    assert not list(requirements(settings, {"store"}))
    assert not list(requirements(load({}, {})))


def test_the_exporter_s_headers_are_secrets(tmp_path: Path) -> None:
    """Those of both variables; names are not."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret-one, x=",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer%20two=",
    }
    assert header_secrets(environ) == ["secret-one", "Bearer%20two="]
