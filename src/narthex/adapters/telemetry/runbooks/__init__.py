"""The runbook of each alert, as Markdown: `<slug>.md` beside this file, below the facts of the alert.

Not here: the alerts (`alerts.py`), showing a page (`web/runbook_pages.py`, `narthex alerts explain`). Rule:
docs/runbooks are these pages, written by `./check --write-docs`.
"""

from __future__ import annotations

import re
from importlib.resources import files

from narthex.adapters.telemetry.alert_rules import expression, thresholds
from narthex.adapters.telemetry.alerts import ALERTS, Alert


def find(name: str) -> Alert | None:
    """The alert of this name, or of this page."""
    return next((alert for alert in ALERTS if name in (alert.name, alert.slug)), None)


def runbook(alert: Alert) -> str:
    """The page: what the alert says, when it fires, what to look at and what to do."""
    title, _, text = (files(__name__) / f"{alert.slug}.md").read_text(encoding="utf-8").partition("\n")
    defaults = thresholds({})
    used = [f"`{word}`" for word in re.findall(r"\$(\w+)", alert.expr) if word in defaults]
    facts = [
        f"**{plain(alert.summary)}** Severity: {alert.severity}. It fires after {alert.after_s:g} s.",
        *([f"Thresholds: {', '.join(dict.fromkeys(used))}."] if used else []),
        "",
        "```promql",
        expression(alert, defaults),
        "```",
    ]
    marked = ["<!-- alert -->", "", *facts, "", "<!-- /alert -->"]
    return "\n".join([title, "", *marked, text])


def plain(summary: str) -> str:
    """A summary without Prometheus' templates."""
    return re.sub(r"{{ \$labels\.(\w+) }}", r"*\1*", summary)
