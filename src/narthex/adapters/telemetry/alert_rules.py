"""Writes the alerts in Prometheus' formats: rules, and promtool's tests of them.

Not here: the alerts (`alerts.py`). Rules: every text is a double-quoted YAML scalar, which JSON's strings are; a rule
names its runbook; `scale` shortens every duration, for tests that cannot wait for hours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from string import Template
from typing import Final

from narthex.adapters.telemetry.alerts import ALERTS, THRESHOLDS, WORDS, Alert, Example
from narthex.errors import ConfigError

RUNBOOKS: Final = "https://narthex.example/docs/runbooks/"
NOTE: Final = "# Written by `narthex alerts render`; the table is in narthex/adapters/telemetry/alerts.py.\n"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(?<=[\[:])(\d+)([smhd])(?=[\]:])|(?<=offset )(\d+)([smhd])")
_LABEL: Final = re.compile(r"{{ \$labels\.(\w+) }}")


def thresholds(chosen: Mapping[str, str]) -> dict[str, float | str]:
    """The thresholds with an operator's own. Raises ConfigError for an unknown name or a value that is no number."""
    values = {name: threshold.default for name, threshold in THRESHOLDS.items()}
    problems: list[str] = []
    for name, text in chosen.items():
        default = values.get(name)
        if default is None:
            problems.append(
                f"There is no threshold {name!r}. Choose one of: {', '.join(sorted(THRESHOLDS))}."
            )
        elif isinstance(default, str):
            if re.fullmatch(r"[\w.:|*-]+", text):
                values[name] = text
            else:
                problems.append(
                    f"{name}={text!r} has characters beside letters, digits and . : | * - _. Leave them out."
                )
        else:
            try:
                values[name] = float(text)
            except ValueError:
                problems.append(f"{name}={text!r} is not a number. Write for example {name}={default:g}.")
    if problems:
        raise ConfigError(problems)
    return values


def expression(alert: Alert, values: Mapping[str, float | str], scale: float = 1.0) -> str:
    """The alert's PromQL."""
    shown = {name: value if isinstance(value, str) else f"{value:.12g}" for name, value in values.items()}
    text = Template(Template(alert.expr).safe_substitute(WORDS)).substitute(shown)
    return text if scale == 1.0 else _DURATION.sub(lambda found: _shorter(found, scale), text)


def rules(values: Mapping[str, float | str], *, runbooks: str = RUNBOOKS, scale: float = 1.0) -> str:
    """The rules file (`rule_files` of prometheus.yml)."""
    lines = [NOTE + "groups:"]
    for group in dict.fromkeys(alert.group for alert in ALERTS):
        lines += [f"  - name: narthex-{group}", "    rules:"]
        for alert in ALERTS:
            if alert.group == group:
                lines += _rule(alert, values, runbooks, scale)
    return "\n".join(lines) + "\n"


def _rule(alert: Alert, values: Mapping[str, float | str], runbooks: str, scale: float) -> list[str]:
    expr = expression(alert, values, scale).splitlines()
    return [
        f"      - alert: {alert.name}",
        "        expr: |-",
        *(f"          {line}" for line in expr),
        f"        for: {_milliseconds(alert.after_s * scale)}",
        "        labels:",
        f"          severity: {alert.severity}",
        "        annotations:",
        f"          summary: {json.dumps(alert.summary)}",
        f"          runbook_url: {json.dumps(runbooks + alert.slug)}",
    ]


def tests(rules_file: str = "narthex.yml", *, runbooks: str = RUNBOOKS) -> str:
    """Tests for promtool: each alert fires in its one example and not in its other."""
    lines = [NOTE + f"rule_files: [{rules_file}]", "evaluation_interval: 1m", "tests:"]
    for alert in ALERTS:
        for word, example in (("fires", alert.fires), ("is quiet", alert.quiet)):
            lines += [f"  - name: {json.dumps(f'{alert.name} {word}')}", *_inputs(example)]
            lines += [f"      - eval_time: {example.at_min}m", f"        alertname: {alert.name}"]
            lines += _expected(alert, runbooks) if word == "fires" else ["        exp_alerts: []"]
    return "\n".join(lines) + "\n"


def _inputs(example: Example) -> list[str]:
    lines = ["    interval: 1m", "    input_series:"]
    for line in example.series:
        series, _, values = line.partition("} ")
        lines += [f"      - series: {json.dumps(series + '}')}", f"        values: {json.dumps(values)}"]
    return [*lines, "    alert_rule_test:"]


def _expected(alert: Alert, runbooks: str) -> list[str]:
    labels = {**alert.labels, "severity": alert.severity}
    summary = _LABEL.sub(lambda found: alert.labels[found[1]], alert.summary)
    return [
        "        exp_alerts:",
        "          - exp_labels:",
        *(f"              {name}: {json.dumps(value)}" for name, value in labels.items()),
        "            exp_annotations:",
        f"              summary: {json.dumps(summary)}",
        f"              runbook_url: {json.dumps(runbooks + alert.slug)}",
    ]


def _shorter(found: re.Match[str], scale: float) -> str:
    number, unit = found[1] or found[3], found[2] or found[4]
    return _milliseconds(int(number) * _UNITS[unit] * scale)


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"
