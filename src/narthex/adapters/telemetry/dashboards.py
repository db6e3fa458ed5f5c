"""Grafana's dashboards, made from the catalogue of metrics and the alerts: one panel a metric, by its kind.

Not here: the metrics (`catalogue.py`), the alerts (`alerts.py`). Rules: a metric that `GROUPS` does not name is on the
overview; a counter that has no series until its first event shows 0; variables are `$job` and `$instance`.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from narthex.adapters.telemetry.alerts import ALERTS
from narthex.adapters.telemetry.catalogue import CATALOGUE, Metric

Group = str

GROUPS: Final[dict[Group, tuple[str, ...]]] = {
    "overview": (),
    "handshakes": (
        "handshakes",
        "handshake_seconds",
        "credential_extractions",
        "breaker_state",
        "keys_fetched_timestamp_seconds",
        "key_fetches",
        "key_expiry_timestamp_seconds",
        "sign_ins",
        "token_refreshes",
        "revocations",
        "revocations_active",
        "disconnects",
        "connections_evicted",
        "http_rate_limited",
        "upstream_handshakes",
    ),
    "runs": (
        "runs",
        "run_seconds",
        "run_start_seconds",
        "run_cancel_seconds",
        "runs_active",
        "runs_queued",
        "run_queue_seconds",
        "runs_waiting",
        "run_deltas_joined",
        "journal_batch_size",
        "run_publish_retries",
        "run_notices_lost",
        "run_loop_failures",
        "run_bugs",
        "runs_lost",
        "runs_taken_over",
        "agents_left_behind",
    ),
    "engines": (
        "engine_seconds",
        "engine_failures",
        "events_lost",
        "channels_behind",
        "recoveries",
        "publications",
        "buffer_fill",
        "buffer_limit",
        "buffer_used_ratio",
        "presence_failures",
        "history_purged",
        "history_purge_failures",
        "history_purge_timestamp_seconds",
    ),
    "e2e": (
        "e2e_admissions",
        "e2e_tests",
        "e2e_success_ratio",
        "e2e_reported_timestamp_seconds",
        "auth_bypass_active",
    ),
}
"""The dashboard of each metric, in the order of its panels."""

RARE: Final = frozenset(
    {
        *(
            "loop_held",
            "presence_failures",
            "messages_ignored",
            "run_loop_failures",
            "bugs",
            "connections_evicted",
        ),
        *("http_rate_limited", "upstream_handshakes", "history_purged", "run_tokens"),
        "trace_spans",
    }
)
"""Counters of faults and of options, whose series begin with the first event."""

TITLES: Final = {
    "overview": "narthex: overview",
    "handshakes": "narthex: handshakes and credentials",
    "runs": "narthex: agent runs",
    "engines": "narthex: broker, store and buffers",
    "e2e": "narthex: end-to-end tests",
}
_SELECT: Final = 'job="$job",instance=~"$instance"'
_WIDTH: Final = 8  # of Grafana's 24 columns
_HEIGHT: Final = 7


class Panel(NamedTuple):
    """A panel: title, what it shows, Grafana's unit, and its queries with their legends."""

    title: str
    text: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


_REPORTED: Final = f"narthex_e2e_reported_timestamp_seconds{{{_SELECT}}} > 0"
_QUERIES: Final = {
    "e2e_success_ratio": f"""max(narthex_e2e_success_ratio{{{_SELECT}}}
and on (instance) (({_REPORTED}) == on () group_left () max({_REPORTED})))""",
    "e2e_reported_timestamp_seconds": f"time() - max({_REPORTED})",
}
"""Of metrics that one of several instances has, the one that a runner reported to; the others' are 0."""
_HANDSHAKES: Final = f'narthex_handshakes_total{{{_SELECT},class!="probe"}}'
_ADMITTED: Final = f'narthex_handshakes_total{{{_SELECT},class!="probe",outcome="admitted"}}'
_TESTS: Final = "sum(increase(narthex_e2e_tests_total{{{},result=~{!r}}}[6h]))"
HEADLINES: Final[dict[Group, tuple[Panel, ...]]] = {
    "overview": (
        Panel(
            "Instances",
            "Instances that Prometheus scrapes.",
            "short",
            (('sum(up{job="$job"})', "up"),),
            "stat",
        ),
        Panel(
            "Connections",
            "Live connections of users, guests and tests.",
            "short",
            ((f"sum(narthex_connections_active{{{_SELECT}}})", "connections"),),
            "stat",
        ),
        Panel(
            "Handshakes that succeed",
            "Share of handshakes that were admitted, of those with a credential that could be.",
            "percentunit",
            (
                (
                    f"sum(rate({_ADMITTED}[$__rate_interval])) / sum(rate({_HANDSHAKES}[$__rate_interval]))",
                    "admitted",
                ),
            ),
            "stat",
        ),
    ),
    "e2e": (
        Panel(
            "Tests that pass",
            "Share of passed tests, over the last six hours.",
            "percentunit",
            (
                (
                    f"{_TESTS.format(_SELECT, 'passed')} / {_TESTS.format(_SELECT, 'passed|failed')}",
                    "passed",
                ),
            ),
            "stat",
        ),
    ),
}


def panels(group: Group) -> list[Panel]:
    """The panels of a dashboard: its alerts, its headlines, then one for each metric."""
    names = "|".join(alert.name for alert in ALERTS if alert.group == group)
    state = Panel(
        "Alerts",
        "Alerts of this dashboard that are pending or firing; each has a page in docs/runbooks.",
        "short",
        (
            (
                f'count by (alertname, alertstate) (ALERTS{{alertname=~"{names}"}}) or on () vector(0)',
                "{{alertname}}",
            ),
        ),
    )
    assigned = {name for named in GROUPS.values() for name in named}
    by_name = {metric.name: metric for metric in CATALOGUE}
    shown = [by_name[name] for name in GROUPS[group] if name in by_name]
    if group == "overview":
        shown = [metric for metric in CATALOGUE if metric.name not in assigned]
    return [state, *HEADLINES.get(group, ()), *(_panel(metric) for metric in shown)]


def _panel(metric: Metric) -> Panel:
    name, by = metric.full_name, ", ".join(metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or metric.name
    series = f"{name}{{{_SELECT}}}"
    if metric.kind == "histogram":
        rate = f"rate({name}_bucket{{{_SELECT}}}[$__rate_interval])"
        bound = ", ".join(("le", *metric.labels))
        queries = tuple(
            (f"histogram_quantile({share}, sum by ({bound}) ({rate}))", f"p{share * 100:g} {legend}")
            for share in (0.5, 0.99)
        )
        return Panel(metric.name, metric.text, "s" if name.endswith("_seconds") else "short", queries)
    if metric.kind == "counter":
        query = f"sum by ({by}) (rate({series}[$__rate_interval]))"
        query += " or on () vector(0)" if metric.name in RARE else ""
        return Panel(metric.name, metric.text, "Bps" if "bytes" in name else "ops", ((query, legend),))
    if metric.name in _QUERIES:
        unit = "s" if name.endswith("_seconds") else "percentunit"
        return Panel(metric.name, metric.text, unit, ((_QUERIES[metric.name], legend),))
    if name.endswith("_timestamp_seconds"):
        ahead = "expiry" in name
        if ahead:
            query = f"min by ({by}) ({series}) - time()"
        elif metric.mode == "livemin":  # 0 is `none yet`, and would be drawn as 56 years
            query = f"time() - min by ({by}) ({series} > 0)"
        else:
            query = f"time() - max by ({by}) ({series})"
        return Panel(
            metric.name,
            f"{metric.text} Shown as seconds {'left' if ahead else 'ago'}.",
            "s",
            ((query, legend),),
        )
    together = "sum" if metric.mode in ("livesum", "all") else "max"
    unit = "s" if name.endswith("_seconds") else "percentunit" if name.endswith("_ratio") else "short"
    unit = "bytes" if "bytes" in name else unit
    return Panel(metric.name, metric.text, unit, ((f"{together} by ({by}) ({series})", legend),))


def dashboard(group: Group) -> str:
    """The JSON model of one dashboard, for Grafana's import or provisioning."""
    model: dict[str, Any] = {
        "uid": f"narthex-{group}",
        "title": TITLES[group],
        "tags": ["narthex"],
        "timezone": "utc",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {
                "type": "dashboards",
                "tags": ["narthex"],
                "title": "narthex",
                "asDropdown": True,
                "keepTime": True,
                "includeVars": False,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
            }
        ],
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                _variable("job", "label_values(narthex_info, job)", every=False),
                _variable("instance", 'label_values(narthex_info{job="$job"}, instance)', every=True),
            ]
        },
        "panels": [_model(number, panel) for number, panel in enumerate(panels(group))],
    }
    return json.dumps(model, indent=2, ensure_ascii=False) + "\n"


def _variable(name: str, query: str, *, every: bool) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": query,
        "refresh": 2,
        "includeAll": every,
        "multi": every,
        **({"allValue": ".*"} if every else {}),
    }


def _model(number: int, panel: Panel) -> dict[str, Any]:
    columns = 24 // _WIDTH
    row, column = divmod(number, columns)
    source = {"type": "prometheus", "uid": "${datasource}"}
    targets = [
        {
            "refId": chr(65 + at),
            "datasource": source,
            "expr": query,
            "legendFormat": legend,
            "exemplar": "bucket" in query,
        }
        for at, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, **({"min": 0} if panel.kind == "timeseries" else {})},
            "overrides": [],
        },
        "targets": targets,
    }
