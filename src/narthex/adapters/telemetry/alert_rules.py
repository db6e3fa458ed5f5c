"""Writes the alerts in Prometheus' formats: rules, and promtool's tests of them.

Not here: the alerts (`alerts.py`). Rules: every text is a double-quoted YAML scalar, which JSON's strings are; a rule
names its runbook, by a command and, where their URL is known, by a link; `scale` shortens every duration, for tests
that cannot wait for hours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from string import Template
from typing import Final

from narthex.adapters.telemetry.alerts import ALERTS, THRESHOLDS, WORDS, Alert
from narthex.errors import ConfigError

EXPLAIN: Final = "narthex alerts explain "
NOTE: Final = "# Written by `narthex alerts render`; the table is in narthex/adapters/telemetry/alerts.py.\n"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"(?<=[\[:])(\d+)([smhd])(?=[\]:])|(?<=offset )(\d+)([smhd])")
_QUIET: Final = "        exp_alerts: []"
_VALUES: Final = re.compile(r"([\d.]+)([+][\d.]+)?x(\d+)")
STALE_MIN: Final = 5  # Prometheus keeps a series' last sample for so long
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


def rules(values: Mapping[str, float | str], *, runbooks: str = "", scale: float = 1.0) -> str:
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
        *(f"          {name}: {text}" for name, text in _annotations(alert, alert.summary, runbooks)),
    ]


def tests(rules_file: str = "narthex.yml", *, runbooks: str = "") -> str:
    """Tests for promtool: each alert fires in its one example and not in its other, and ends with its fault."""
    lines = [NOTE + f"rule_files: [{rules_file}]", "evaluation_interval: 1m", "tests:"]
    for alert in ALERTS:
        series, ends_min = _mended(alert)
        looks = [(alert.fires.at_min, _expected(alert, runbooks)), (ends_min, [_QUIET])]
        lines += _test(alert, "fires and resolves", series, looks)
        lines += _test(alert, "is quiet", alert.quiet.series, [(alert.quiet.at_min, [_QUIET])])
    return "\n".join(lines) + "\n"


def _test(
    alert: Alert, title: str, series: Sequence[str], looks: Iterable[tuple[int, list[str]]]
) -> list[str]:
    lines = [f"  - name: {json.dumps(f'{alert.name} {title}')}", "    interval: 1m", "    input_series:"]
    for line in series:
        name, _, values = line.partition("} ")
        lines += [f"      - series: {json.dumps(name + '}')}", f"        values: {json.dumps(values)}"]
    lines.append("    alert_rule_test:")
    for minute, expected in looks:
        lines += [f"      - eval_time: {minute}m", f"        alertname: {alert.name}", *expected]
    return lines


def _mended(alert: Alert) -> tuple[list[str], int]:
    """The series of the example that fires, mended after its look, and the minute by which the alert has ended: its
    window has passed without the fault.
    """
    end = alert.fires.at_min + _window_min(alert) + STALE_MIN
    series = []
    for line, after in zip(alert.fires.series, alert.mended, strict=True):
        name, _, values = line.partition("} ")
        until, last = _cut(values, alert.fires.at_min + 1)
        begin = f"{last + float(after):g}{after}" if after.startswith("+") else after
        series.append(f"{name}}} {until} {begin}x{end - alert.fires.at_min}")
    return series, end


def _window_min(alert: Alert) -> int:
    """The minutes that the expression looks back: where conditions are joined by `and`, one of them ends the alert."""
    found = [
        [int(one[0] or one[2]) * _UNITS[one[1] or one[3]] // 60 for one in _DURATION.findall(part)]
        for part in alert.expr.split("\nand ")
    ]
    return min((max(part) for part in found if part), default=0)


def _cut(values: str, samples: int) -> tuple[str, float]:
    """The first samples of a series in promtool's notation, and the last one's value; missing ones are filled in."""
    kept, last = [], 0.0
    for start, step, times in _VALUES.findall(values):
        count = min(int(times or 0), samples - 1)
        samples -= count + 1
        kept.append(f"{start}{step}x{count}")
        last = float(start) + float(step or 0) * count
        if not samples:
            break
    return " ".join([*kept, *([f"_x{samples}"] if samples else [])]), last


def _expected(alert: Alert, runbooks: str) -> list[str]:
    labels = {**alert.labels, "severity": alert.severity}
    summary = _LABEL.sub(lambda found: alert.labels[found[1]], alert.summary)
    return [
        "        exp_alerts:",
        "          - exp_labels:",
        *(f"              {name}: {json.dumps(value)}" for name, value in labels.items()),
        "            exp_annotations:",
        *(f"              {name}: {text}" for name, text in _annotations(alert, summary, runbooks)),
    ]


def _annotations(alert: Alert, summary: str, runbooks: str) -> list[tuple[str, str]]:
    found = [("summary", summary), ("runbook", EXPLAIN + alert.name)]
    if runbooks:
        found.append(("runbook_url", f"{runbooks.rstrip('/')}/{alert.slug}"))
    return [(name, json.dumps(text)) for name, text in found]


def _shorter(found: re.Match[str], scale: float) -> str:
    number, unit = found[1] or found[3], found[2] or found[4]
    return _milliseconds(int(number) * _UNITS[unit] * scale)


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"
