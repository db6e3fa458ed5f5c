"""The alerts on narthex's metrics, once: thresholds, expressions, and an example of each that fires and one that stays
quiet.

Not here: writing them in Prometheus' format (`alert_rules.py`), what to do about one (docs/runbooks). Rules: every
alert has a runbook page and a panel in Grafana; an expression aggregates to `job`, and to `instance` only where one
instance alone is the trouble; `$name` is a threshold or one of `WORDS`; a duration is written in brackets, after
`offset` or in `after_s`, so that tests can compress time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from narthex.adapters.telemetry.catalogue import OF_DEPLOYS, OWN_FAULTS
from narthex.domain.refusals import TABLE

WORDS: Final = {
    "client": "|".join(code for code, row in TABLE.items() if row.http is not None and 400 <= row.http < 404),
    "server": "|".join(OWN_FAULTS),
    "normal": "|".join(sorted(OF_DEPLOYS)),
}
"""`client`: the credential or the request is refused; `server`: the gateway's own fault; `normal`: of a deploy."""


class Threshold(NamedTuple):
    """A number or a text that an operator may choose: `narthex alerts render --threshold NAME=VALUE`."""

    default: float | str
    text: str


THRESHOLDS: Final[dict[str, Threshold]] = {
    "job": Threshold("narthex", "Prometheus' `job` of the gateways."),
    "min_handshakes_per_s": Threshold(0.1, "Fewer handshakes a second prove nothing about a share."),
    "refused_share": Threshold(0.25, "Share of handshakes refused for the credential or the request."),
    "failed_share": Threshold(0.02, "Share of handshakes refused for the gateway's own fault."),
    "rejected_share": Threshold(0.5, "Share of a carrier's credentials that do not verify."),
    "wrong_keys": Threshold(5, "Wrong end-to-end keys in 10 minutes."),
    "test_hours_from": Threshold(5, "Hour (UTC) from which tests may run; 0 with 24 as the end: always."),
    "test_hours_to": Threshold(22, "Hour (UTC) to which tests may run."),
    "bypass_environments": Threshold(
        "development|testing|staging", "Environments in which test identities may be admitted."
    ),
    "e2e_failed_share": Threshold(0.1, "Share of end-to-end tests that failed, over 6 hours."),
    "keys_stale_s": Threshold(7200, "Age of an issuer's keys, in seconds; they serve for 24 hours."),
    "expiry_s": Threshold(1_209_600, "Remaining life of a key or certificate, in seconds."),
    "storm_reconnects": Threshold(
        3, "Handshakes in 5 minutes, for each of the most connections in half an hour."
    ),
    "min_connections": Threshold(50, "Fewer connections prove nothing about a fall or a storm."),
    "connections_share": Threshold(0.85, "Share of an instance's limit of connections."),
    "buffer_share": Threshold(0.9, "Share of a buffer's limit."),
    "fall_share": Threshold(0.5, "Connections left, as a share of the most in half an hour."),
    "slow_closes": Threshold(20, "Slow clients closed in 10 minutes."),
    "runs_failed_share": Threshold(0.2, "Share of runs that end with an error."),
    "min_runs": Threshold(5, "Fewer runs in 10 minutes prove nothing about a share."),
    "queued_s": Threshold(60, "Age of a queued run that a node could start, in seconds."),
    "engine_s": Threshold(0.5, "99th percentile of the broker's or the store's latency, in seconds."),
    "engine_failures_per_s": Threshold(0.1, "Failed operations of the broker or the store."),
    "loop_lag_s": Threshold(0.1, "99th percentile of an event loop's lag, in seconds."),
    "probe_silent_s": Threshold(300, "Seconds since the canary's last round."),
    "connect_slo": Threshold(
        0.999, "Objective of `can connect`: handshakes that do not fail by the gateway's fault."
    ),
    "runs_slo": Threshold(0.99, "Objective of `runs end`: runs that end without an error."),
}


class Example(NamedTuple):
    """Series for a test with promtool: each `series values`, one value a minute, and the minute of the look."""

    series: tuple[str, ...]
    at_min: int = 30


class Alert(NamedTuple):
    """One alert.

    Attributes:
        after_s: how long the condition must hold.
        mended: how each series of the example that fires goes on once the fault is gone: `+N` a minute, or the value.
        labels: of the alert in the example that fires.
        group: of the rules, and the dashboard that shows it.
    """

    name: str
    severity: Literal["critical", "warning"]
    group: Literal["overview", "handshakes", "runs", "engines", "e2e"]
    summary: str
    expr: str
    after_s: float
    fires: Example
    quiet: Example
    mended: tuple[str, ...]
    labels: Mapping[str, str] = MappingProxyType({"job": "narthex"})

    @property
    def slug(self) -> str:
        """The name of the runbook's page: `NarthexBreakerOpen` is `breaker-open`."""
        return re.sub(r"(?<!^)([A-Z]+[a-z0-9]*)", r"-\1", self.name.removeprefix("Narthex")).lower()


def _share(part: str, whole: str, window: str) -> str:
    return f"sum by (job) (rate({part}[{window}])) / sum by (job) (rate({whole}[{window}]))"


_HS: Final = "narthex_handshakes_total"
_USERS: Final = 'class!="probe"'
_ENOUGH: Final = f"and sum by (job) (rate({_HS}{{{_USERS}}}[5m])) > $min_handshakes_per_s"


def _connect_burn(window: str) -> str:
    valid = f'{_HS}{{{_USERS},code!~"$client|$normal"}}'
    return _share(f'{_HS}{{{_USERS},code=~"$server"}}', valid, window)


def _runs_burn(window: str) -> str:
    return _share('narthex_runs_total{state="failed"}', "narthex_runs_total", window)


def _burn(ratio_long: str, ratio_short: str, factor: float, slo: str) -> str:
    return f"({ratio_long}) > {factor} * (1 - ${slo})\nand ({ratio_short}) > {factor} * (1 - ${slo})"


def _series(name: str, values: str, **labels: str) -> str:
    inside = ", ".join(f'{key.rstrip("_")}="{value}"' for key, value in {"job": "narthex", **labels}.items())
    return f"{name}{{{inside}}} {values}"


def _handshakes(admitted: str, refused: Mapping[str, str] | None = None) -> Example:
    kept = [_series(_HS, admitted, outcome="admitted", code="ok", class_="user")]
    for code, values in (refused or {}).items():
        kept.append(_series(_HS, values, outcome="refused", code=code, class_="user"))
    return Example(tuple(kept))


def _runs(finished: str, failed: str, at_min: int = 30) -> Example:
    return Example(
        (
            _series("narthex_runs_total", finished, state="finished", error=""),
            _series("narthex_runs_total", failed, state="failed", error="agent_failed"),
        ),
        at_min,
    )


def _buckets(name: str, quick: str, slow: str, every: str, **labels: str) -> Example:
    bounds = (("0.05", quick), ("2.5", slow), ("+Inf", every))
    return Example(tuple(_series(f"{name}_bucket", values, le=le, **labels) for le, values in bounds))


def _one(name: str, values: str, at_min: int = 30, **labels: str) -> Example:
    return Example((_series(name, values, **labels),), at_min)


ALERTS: Final = (
    Alert(
        "NarthexNoData",
        "critical",
        "overview",
        "No gateway sends metrics.",
        'absent(narthex_info{job="$job"})',
        300,
        _one("narthex_info", "1x5", 30, version="1", environment="staging"),
        _one("narthex_info", "1x60", 30, version="1", environment="staging"),
        mended=("1",),
    ),
    Alert(
        "NarthexDown",
        "critical",
        "overview",
        "Prometheus cannot scrape {{ $labels.instance }}.",
        'up{job="$job"} == 0',
        120,
        _one("up", "0x60", instance="a"),
        _one("up", "1x60", instance="a"),
        mended=("1",),
        labels={"job": "narthex", "instance": "a"},
    ),
    Alert(
        "NarthexUnhealthy",
        "critical",
        "overview",
        "Health of {{ $labels.instance }} has said unhealthy for {{ $labels.check }}.",
        "narthex_health_status == 2",
        60,
        _one("narthex_health_status", "2x60", instance="a", check="broker"),
        _one("narthex_health_status", "1x60", instance="a", check="agents"),
        mended=("0",),
        labels={"job": "narthex", "instance": "a", "check": "broker"},
    ),
    Alert(
        "NarthexProbeFailing",
        "critical",
        "overview",
        "The canary at {{ $labels.url }} fails or is silent.",
        "narthex_probe_success == 0 or time() - narthex_probe_last_round_timestamp_seconds > $probe_silent_s",
        120,
        _one("narthex_probe_success", "0x60", url="wss://x/ws"),
        Example(
            (
                _series("narthex_probe_success", "1x60", url="wss://x/ws"),
                _series("narthex_probe_last_round_timestamp_seconds", "0+60x60", url="wss://x/ws"),
            )
        ),
        mended=("1",),
        labels={"job": "narthex", "url": "wss://x/ws"},
    ),
    Alert(
        "NarthexHandshakesRefused",
        "warning",
        "handshakes",
        "Many handshakes are refused for their credential or request (401, 403).",
        f"""({_share(f'{_HS}{{{_USERS},code=~"$client"}}', f"{_HS}{{{_USERS}}}", "5m")}) > $refused_share
{_ENOUGH}""",
        300,
        _handshakes("0+60x60", {"token_invalid": "0+60x60", "draining": "0+1x60"}),
        _handshakes("0+60x60", {"token_expired": "0+6x60", "connection_limit": "0+60x60"}),
        mended=("+60", "+6", "+0"),
    ),
    Alert(
        "NarthexHandshakesFailing",
        "critical",
        "handshakes",
        "Handshakes fail by the gateway's own fault (5xx).",
        f"""({_share(f'{_HS}{{{_USERS},code=~"$server"}}', f"{_HS}{{{_USERS}}}", "5m")}) > $failed_share
{_ENOUGH}""",
        120,
        _handshakes("0+60x60", {"auth_unavailable": "0+6x60"}),
        _handshakes("0+60x60", {"token_invalid": "0+60x60", "draining": "0+60x60", "starting": "0+60x60"}),
        mended=("+60", "+0"),
    ),
    Alert(
        "NarthexConnectBurnFast",
        "critical",
        "handshakes",
        "The error budget of `can connect` burns 14 times too fast.",
        _burn(_connect_burn("1h"), _connect_burn("5m"), 14.4, "connect_slo"),
        120,
        _handshakes("0+60x60", {"internal": "0+2x60"}),
        _handshakes("0+600x60", {"internal": "0+1x60"}),
        mended=("+60", "+0"),
    ),
    Alert(
        "NarthexConnectBurnSlow",
        "warning",
        "handshakes",
        "The error budget of `can connect` burns 6 times too fast.",
        _burn(_connect_burn("6h"), _connect_burn("30m"), 6, "connect_slo"),
        900,
        _handshakes("0+600x120", {"internal": "0+6x120"})._replace(at_min=90),
        _handshakes("0+600x120", {"internal": "0+1x120"})._replace(at_min=90),
        mended=("+600", "+0"),
    ),
    Alert(
        "NarthexBreakerOpen",
        "critical",
        "handshakes",
        "The circuit breaker of {{ $labels.dependency }} is open for {{ $labels.class }} traffic.",
        "max by (job, dependency, class) (max_over_time(narthex_breaker_state[2m])) == 2",
        60,
        _one("narthex_breaker_state", "2x60", dependency="jwks:default", class_="user"),
        _one("narthex_breaker_state", "1x60", dependency="jwks:default", class_="user"),
        mended=("0",),
        labels={"job": "narthex", "dependency": "jwks:default", "class": "user"},
    ),
    Alert(
        "NarthexTokenExtractionFailing",
        "warning",
        "handshakes",
        "Most credentials that arrive by {{ $labels.carrier }} do not verify.",
        """sum by (job, carrier) (rate(narthex_credential_extractions_total{result=~"rejected|unavailable"}[5m]))
/ sum by (job, carrier) (rate(narthex_credential_extractions_total[5m])) > $rejected_share
and sum by (job, carrier) (rate(narthex_credential_extractions_total[5m])) > $min_handshakes_per_s""",
        300,
        Example(
            (
                _series("narthex_credential_extractions_total", "0+10x60", carrier="cookie", result="valid"),
                _series(
                    "narthex_credential_extractions_total", "0+60x60", carrier="cookie", result="rejected"
                ),
            )
        ),
        Example(
            (
                _series("narthex_credential_extractions_total", "0+60x60", carrier="cookie", result="valid"),
                _series(
                    "narthex_credential_extractions_total", "0+90x60", carrier="cookie", result="expired"
                ),
            )
        ),
        mended=("+60", "+1"),
        labels={"job": "narthex", "carrier": "cookie"},
    ),
    Alert(
        "NarthexKeysStale",
        "warning",
        "handshakes",
        "A gateway's keys of issuer {{ $labels.issuer }} are old or were never fetched.",
        "time() - min by (job, issuer) (narthex_keys_fetched_timestamp_seconds) > $keys_stale_s",
        300,
        Example(
            (
                _series("narthex_keys_fetched_timestamp_seconds", "0+60x240", issuer="default", instance="a"),
                _series("narthex_keys_fetched_timestamp_seconds", "0x240", issuer="default", instance="b"),
            ),
            180,
        ),
        _one("narthex_keys_fetched_timestamp_seconds", "0+60x240", 180, issuer="default"),
        mended=("+60", "10860"),
        labels={"job": "narthex", "issuer": "default"},
    ),
    Alert(
        "NarthexKeyExpiring",
        "warning",
        "handshakes",
        "The key or certificate {{ $labels.key }} is about to expire.",
        "min by (job, key) (narthex_key_expiry_timestamp_seconds) - time() < $expiry_s",
        300,
        _one("narthex_key_expiry_timestamp_seconds", "1000000x60", key="default"),
        _one("narthex_key_expiry_timestamp_seconds", "5000000x60", key="default"),
        mended=("5000000",),
        labels={"job": "narthex", "key": "default"},
    ),
    Alert(
        "NarthexCertificateExpiring",
        "warning",
        "handshakes",
        "The TLS certificate of {{ $labels.url }} is about to expire.",
        "narthex_probe_certificate_expiry_timestamp_seconds - time() < $expiry_s",
        300,
        _one("narthex_probe_certificate_expiry_timestamp_seconds", "1000000x60", url="wss://x/ws"),
        _one("narthex_probe_certificate_expiry_timestamp_seconds", "5000000x60", url="wss://x/ws"),
        mended=("5000000",),
        labels={"job": "narthex", "url": "wss://x/ws"},
    ),
    Alert(
        "NarthexReconnectStorm",
        "warning",
        "handshakes",
        "Clients reconnect again and again.",
        f"""sum by (job) (increase({_HS}{{outcome="admitted",{_USERS}}}[5m]))
> $storm_reconnects * (max_over_time(sum by (job) (narthex_connections_active)[30m:1m]) > $min_connections)""",
        60,
        Example(
            (
                *_handshakes("0+120x60").series,
                _series("narthex_connections_active", "100x20 10x40", class_="user"),
            )
        ),
        Example(
            (
                *_handshakes("0+20x60").series,
                _series("narthex_connections_active", "100x60", class_="user"),
                _series(_HS, "0+120x60", job="few", outcome="admitted", code="ok", class_="user"),
                _series("narthex_connections_active", "40x60", job="few", class_="user"),
            )
        ),
        mended=("+20", "100"),
    ),
    Alert(
        "NarthexConnectionsNearLimit",
        "warning",
        "overview",
        "{{ $labels.instance }} is near its limit of connections.",
        'max by (job, instance) (narthex_buffer_used_ratio{buffer="connections"}) > $connections_share',
        300,
        _one("narthex_buffer_used_ratio", "0.9x60", buffer="connections", instance="a"),
        _one("narthex_buffer_used_ratio", "0.7x60", buffer="connections", instance="a"),
        mended=("0.7",),
        labels={"job": "narthex", "instance": "a"},
    ),
    Alert(
        "NarthexBufferNearLimit",
        "warning",
        "engines",
        "The buffer {{ $labels.buffer }} of {{ $labels.instance }} is near its limit.",
        """max by (job, instance, buffer) (
narthex_buffer_used_ratio{buffer!~"connections.*|.*_(cache|table)"}) > $buffer_share""",
        60,
        _one("narthex_buffer_used_ratio", "0.95x60", buffer="broker_queue", instance="a"),
        _one("narthex_buffer_used_ratio", "0.45x60", buffer="broker_queue", instance="a"),
        mended=("0.45",),
        labels={"job": "narthex", "instance": "a", "buffer": "broker_queue"},
    ),
    Alert(
        "NarthexConnectionsFell",
        "critical",
        "overview",
        "Live connections have fallen suddenly.",
        """sum by (job) (narthex_connections_active{class="user"})
< $fall_share * (max_over_time(sum by (job) (narthex_connections_active{class="user"})[30m:1m]) > $min_connections)""",
        120,
        _one("narthex_connections_active", "1000x20 100x40", class_="user"),
        _one("narthex_connections_active", "1000x20 700x40", class_="user"),
        mended=("900",),
    ),
    Alert(
        "NarthexSlowConsumers",
        "warning",
        "overview",
        "Many slow clients are closed (3008).",
        "sum by (job) (increase(narthex_slow_closes_total[10m])) > $slow_closes",
        60,
        _one("narthex_slow_closes_total", "0+10x60", limit="lag"),
        _one("narthex_slow_closes_total", "0+1x60", limit="lag"),
        mended=("+1",),
    ),
    Alert(
        "NarthexLoopLag",
        "warning",
        "overview",
        "The event loop of {{ $labels.instance }} lags: every client of it waits.",
        """histogram_quantile(0.99, sum by (job, instance, le) (
rate(narthex_loop_lag_seconds_bucket[5m]))) > $loop_lag_s""",
        300,
        _buckets("narthex_loop_lag_seconds", "0+500x60", "0+600x60", "0+600x60", instance="a"),
        _buckets("narthex_loop_lag_seconds", "0+600x60", "0+600x60", "0+600x60", instance="a"),
        mended=("+600", "+600", "+600"),
        labels={"job": "narthex", "instance": "a"},
    ),
    Alert(
        "NarthexBugs",
        "warning",
        "overview",
        "Unexpected exceptions in {{ $labels.where }}.",
        "sum by (job, where) (increase(narthex_bugs_total[10m])) > 0",
        0,
        _one("narthex_bugs_total", "0+1x60", where="gateway"),
        _one("narthex_bugs_total", "3x60", where="gateway"),
        mended=("+0",),
        labels={"job": "narthex", "where": "gateway"},
    ),
    Alert(
        "NarthexEventsLost",
        "critical",
        "engines",
        "Acknowledged events could not be recovered for subscribers.",
        "sum by (job) (increase(narthex_events_lost_total[10m])) > 0",
        0,
        _one("narthex_events_lost_total", "0x20 1x40"),
        _one("narthex_events_lost_total", "1x60"),
        mended=("+0",),
    ),
    Alert(
        "NarthexEngineSlow",
        "warning",
        "engines",
        "The {{ $labels.engine }} is slow.",
        """histogram_quantile(0.99, sum by (job, engine, le) (
rate(narthex_engine_seconds_bucket{operation!~"start|stop"}[5m]))) > $engine_s""",
        300,
        _buckets(
            "narthex_engine_seconds", "0+500x60", "0+600x60", "0+600x60", engine="store", operation="ping"
        ),
        _buckets(
            "narthex_engine_seconds", "0+600x60", "0+600x60", "0+600x60", engine="store", operation="ping"
        ),
        mended=("+600", "+600", "+600"),
        labels={"job": "narthex", "engine": "store"},
    ),
    Alert(
        "NarthexEngineFailing",
        "critical",
        "engines",
        "Operations of the {{ $labels.engine }} fail.",
        "sum by (job, engine) (rate(narthex_engine_failures_total[5m])) > $engine_failures_per_s",
        60,
        _one("narthex_engine_failures_total", "0+60x60", engine="broker", operation="publish"),
        _one("narthex_engine_failures_total", "0+1x60", engine="broker", operation="publish"),
        mended=("+1",),
        labels={"job": "narthex", "engine": "broker"},
    ),
    Alert(
        "NarthexRunsFailing",
        "warning",
        "runs",
        "Many runs end with an error.",
        f"""({_runs_burn("10m")}) > $runs_failed_share
and sum by (job) (increase(narthex_runs_total[10m])) > $min_runs""",
        120,
        _runs("0+10x60", "0+10x60"),
        _runs("0+10x60", "0+1x60"),
        mended=("+10", "+0"),
    ),
    Alert(
        "NarthexRunsStuck",
        "critical",
        "runs",
        "Runs wait in the queue, and no node starts them.",
        "max by (job) (narthex_run_queue_seconds) > $queued_s",
        120,
        _one("narthex_run_queue_seconds", "0+60x60"),
        _one("narthex_run_queue_seconds", "20x60"),
        mended=("0",),
    ),
    Alert(
        "NarthexRunsBurnFast",
        "critical",
        "runs",
        "The error budget of `runs end` burns 14 times too fast.",
        _burn(_runs_burn("1h"), _runs_burn("5m"), 14.4, "runs_slo"),
        120,
        _runs("0+10x60", "0+10x60"),
        _runs("0+10x60", "0+1x60"),
        mended=("+10", "+0"),
    ),
    Alert(
        "NarthexRunsBurnSlow",
        "warning",
        "runs",
        "The error budget of `runs end` burns 6 times too fast.",
        _burn(_runs_burn("6h"), _runs_burn("30m"), 6, "runs_slo"),
        900,
        _runs("0+10x120", "0+1x120", 90),
        _runs("0+100x120", "0+1x120", 90),
        mended=("+10", "+0"),
    ),
    Alert(
        "NarthexWrongTestKeys",
        "warning",
        "e2e",
        "Wrong end-to-end keys arrive: a stale secret, or an attack.",
        """sum by (job) (
increase(narthex_e2e_admissions_total{result=~"wrong_key|wrong_token|rate_limited"}[10m])) > $wrong_keys""",
        0,
        _one("narthex_e2e_admissions_total", "0+2x60", result="wrong_key"),
        _one("narthex_e2e_admissions_total", "0+2x60", result="admitted"),
        mended=("+0",),
    ),
    Alert(
        "NarthexTestsOutsideHours",
        "warning",
        "e2e",
        "Test identities are admitted outside of the hours of tests.",
        """sum by (job) (increase(narthex_e2e_admissions_total{result="admitted"}[10m])) > 0
and on () (hour() < $test_hours_from or hour() >= $test_hours_to)""",
        0,
        _one("narthex_e2e_admissions_total", "0+1x800", 120, result="admitted"),
        _one("narthex_e2e_admissions_total", "0+1x800", 720, result="admitted"),
        mended=("+0",),
    ),
    Alert(
        "NarthexBypassActive",
        "critical",
        "e2e",
        "Test identities can be admitted at {{ $labels.instance }}, where they must not be.",
        """max by (job, instance) (narthex_auth_bypass_active) == 1
unless on (job, instance) narthex_info{environment=~"$bypass_environments"}""",
        60,
        Example(
            (
                _series("narthex_auth_bypass_active", "1x60", instance="a"),
                _series("narthex_info", "1x60", environment="production", version="1", instance="a"),
                _series("narthex_info", "1x60", environment="staging", version="1", instance="b"),
            )
        ),
        Example(
            (
                _series("narthex_auth_bypass_active", "1x60", instance="a"),
                _series("narthex_info", "1x60", environment="staging", version="1", instance="a"),
                _series("narthex_info", "1x60", environment="production", version="1", instance="b"),
            )
        ),
        mended=("0", "1", "1"),
        labels={"job": "narthex", "instance": "a"},
    ),
    Alert(
        "NarthexTestsFailing",
        "warning",
        "e2e",
        "End-to-end tests fail.",
        """sum by (job) (increase(narthex_e2e_tests_total{result="failed"}[6h]))
/ sum by (job) (increase(narthex_e2e_tests_total{result=~"passed|failed"}[6h])) > $e2e_failed_share""",
        0,
        Example(
            (
                _series("narthex_e2e_tests_total", "0+7x60", result="passed"),
                _series("narthex_e2e_tests_total", "0+3x60", result="failed"),
            )
        ),
        Example(
            (
                _series("narthex_e2e_tests_total", "0+100x60", result="passed"),
                _series("narthex_e2e_tests_total", "0+1x60", result="failed"),
                _series("narthex_e2e_tests_total", "0+90x60", result="skipped"),
            )
        ),
        mended=("+10", "+0"),
    ),
)
"""In the order of docs/runbooks/README.md within each group."""
