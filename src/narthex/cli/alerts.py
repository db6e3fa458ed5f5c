"""`narthex alerts`: Prometheus alert rules over narthex's metrics, with an operator's own thresholds.

Not here: the alerts (`adapters/telemetry/alerts.py`).
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from typing import Annotated

from cyclopts import App, Parameter

from narthex.adapters.telemetry import alert_rules
from narthex.adapters.telemetry.alerts import ALERTS, THRESHOLDS
from narthex.adapters.telemetry.runbooks import find, runbook
from narthex.errors import EXIT_OK, ConfigError

app = App(name="alerts", help="Alert rules for Prometheus.")

Chosen = Annotated[
    list[str] | None, Parameter(consume_multiple=True, negative_iterable=(), help="`NAME=VALUE`; repeatable.")
]


@app.command
def render(
    *,
    threshold: Chosen = None,
    runbooks: str = "",
    tests: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Print the rules file for Prometheus.

    Examples:
        narthex alerts render
        narthex alerts render --threshold connections_share=0.7

    Args:
        threshold: thresholds of your own; `narthex alerts list` shows their names and defaults.
        runbooks: URL of the runbooks' pages, such as `https://your.gateway/runbooks/`: alerts get a link.
        tests: print promtool's tests of the default rules instead.
    """
    if tests:
        print(alert_rules.tests(runbooks=runbooks), end="")
        return EXIT_OK
    chosen: dict[str, str] = {}
    for item in threshold or ():
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError([f"--threshold {item!r} has no value. Write --threshold NAME=VALUE."])
        chosen[name] = value
    print(alert_rules.rules(alert_rules.thresholds(chosen), runbooks=runbooks), end="")
    return EXIT_OK


@app.command
def explain(name: str) -> int:
    """Print the runbook of an alert: what it means, what to look at, what to do.

    Examples:
        narthex alerts explain NarthexBreakerOpen

    Args:
        name: of the alert, such as NarthexBreakerOpen, or of its page, breaker-open.
    """
    alert = find(name)
    if alert is None:
        near = difflib.get_close_matches(name, [one.name for one in ALERTS], 1, 0.3)
        hint = f" Do you mean {near[0]}?" if near else ""
        raise ConfigError([f"There is no alert {name!r}.{hint} `narthex alerts list` shows all."])
    page = re.sub(r"<!-- /?alert -->\n\n?", "", runbook(alert))
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(page, hyperlinks=False))
    else:
        print(page, end="")
    return EXIT_OK


@app.command(name="list")
def list_(*, json_: Annotated[bool, Parameter(name="--json", help="For machines.")] = False) -> int:
    """List the alerts and the thresholds that can be chosen.

    Examples:
        narthex alerts list
    """
    if json_:
        alerts = [
            {
                "name": one.name,
                "severity": one.severity,
                "group": one.group,
                "summary": one.summary,
                "expr": one.expr,
            }
            for one in ALERTS
        ]
        found = {name: {"default": one.default, "text": one.text} for name, one in THRESHOLDS.items()}
        print(json.dumps({"alerts": alerts, "thresholds": found}))
        return EXIT_OK
    for alert in ALERTS:
        print(f"{alert.name:<32}{alert.severity:<10}{alert.summary}")
    print()
    for name, one in THRESHOLDS.items():
        print(f"{f'{name}={one.default}':<32}  {one.text}")
    return EXIT_OK
