"""Which pages of docs/ and which sources are generated, wholly or between two marks, and from what.

Rules: a page is compared byte for byte, but for the map of tests, whose rows must only be true; what a person wrote
around the marks stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]


def _settings() -> str:
    from narthex.settings import render_docs

    return render_docs()


def _between(page: Path, name: str, text: str) -> str:
    """The page with `text` between `<!-- name -->` and `<!-- /name -->`."""
    return _put(page.read_text(encoding="utf-8"), name, text)


def _put(page: str, name: str, text: str) -> str:
    before, begin, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise ValueError(f"a page lacks the marks <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{begin}\n{text}\n\n{end}{after}"


def _operations() -> str:
    from narthex.adapters.telemetry.catalogue import CATALOGUE

    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        lines.append(f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.text} |")
    return _between(ROOT / "docs" / "operations.md", "metrics", "\n".join(lines))


def _design() -> str:
    from tools import diagrams

    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for draw in (diagrams.layers, diagrams.admission, diagrams.phases, diagrams.run_states):
        page = _put(page, draw.__name__.replace("_", " "), draw())
    return page


def _alerts_index() -> str:
    """The runbooks' index: every alert, its severity and its page; then the thresholds."""
    from narthex.adapters.telemetry.alerts import ALERTS, THRESHOLDS
    from narthex.adapters.telemetry.runbooks import plain

    lines: list[str] = []
    for group in dict.fromkeys(alert.group for alert in ALERTS):
        lines += [f"## {group.capitalize()}", "", "| alert | severity | meaning |", "| --- | --- | --- |"]
        for alert in ALERTS:
            if alert.group == group:
                name = f"[{alert.name}]({alert.slug}.md)"
                lines.append(f"| {name} | {alert.severity} | {plain(alert.summary)} |")
        lines.append("")
    lines += ["## Thresholds", "", "| threshold | default | meaning |", "| --- | --- | --- |"]
    for threshold, one in THRESHOLDS.items():
        default = str(one.default).replace("|", "\\|")
        lines.append(f"| `{threshold}` | `{default}` | {one.text} |")
    return _between(ROOT / "docs" / "runbooks" / "README.md", "alerts", "\n".join(lines))


def _runbook(name: str) -> str:
    """One runbook: the package's."""
    from narthex.adapters.telemetry.runbooks import find, runbook

    alert = find(name)
    assert alert is not None
    return runbook(alert)


def _rules() -> str:
    from narthex.adapters.telemetry.alert_rules import rules, thresholds

    return rules(thresholds({}))


def _rule_tests() -> str:
    from narthex.adapters.telemetry.alert_rules import tests

    return tests()


def _dashboards() -> dict[str, Callable[[], str]]:
    from narthex.adapters.telemetry.dashboards import GROUPS, dashboard

    return {f"deploy/grafana/{group}.json": partial(dashboard, group) for group in GROUPS}


def _runbooks() -> dict[str, Callable[[], str]]:
    from narthex.adapters.telemetry.alerts import ALERTS

    return {f"docs/runbooks/{alert.slug}.md": partial(_runbook, alert.slug) for alert in ALERTS}


def _contract() -> str:
    """What the JavaScript helper has to know of the gateway's tables."""
    from narthex.domain.endpoints import WEBSOCKETS
    from narthex.domain.refusals import CLOSES_BY_STATUS, MAX_CLOSE_REASON_BYTES, client_closes

    def record(name: str, about: str, table: Mapping[Any, int]) -> str:
        rows = "".join(f"  {key}: {value},\n" for key, value in table.items())
        return f"/** {about} */\nexport const {name}: Record<string, number> = {{\n{rows}}};\n"

    paths = "".join(f'  "{path}",\n' for path in sorted(WEBSOCKETS, key=len, reverse=True))
    return "\n".join(
        (
            "// Generated from narthex.domain.refusals and narthex.domain.endpoints by `./check --write-docs`.\n",
            record("CLOSES_BY_CODE", "Outcome of a refused handshake → close code.", client_closes()),
            record("CLOSES_BY_STATUS", "The same for an outcome of a newer gateway.", CLOSES_BY_STATUS),
            f"/** Paths of a gateway's WebSocket, the longest first. */\nexport const WEBSOCKET_PATHS = [\n{paths}];\n",
            f"/** RFC 6455 section 5.5. */\nexport const MAX_CLOSE_REASON_BYTES = {MAX_CLOSE_REASON_BYTES};\n",
        )
    )


def _refusals() -> str:
    from tests.refusals_page import refusals_page

    return refusals_page()


def _troubleshooting() -> str:
    from narthex.doctor.handbook import page

    return page()


def _asyncapi() -> str:
    from tools.asyncapi import text

    return text()


def _wire_page() -> str:
    from tools.wire_page import page

    return page()


def _cli_page() -> str:
    from tools.cli_page import page

    return page()


def _openapi() -> str:
    from tools.openapi import text

    return text()


def _http_page() -> str:
    from tools.http_page import page

    return page()


def _map_of_tests() -> str:
    from tests.map_of_tests import render

    return render()


PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/settings.md": _settings,
    "docs/operations.md": _operations,
    "docs/design.md": _design,
    "docs/map-tests.md": _map_of_tests,
    "web/packages/client/src/contract.ts": _contract,
    "docs/refusals.md": _refusals,
    "docs/troubleshooting.md": _troubleshooting,
    "docs/asyncapi.json": _asyncapi,
    "docs/asyncapi.md": _wire_page,
    "src/narthex/web/api/openapi.json": _openapi,
    "docs/openapi.md": _http_page,
    "docs/cli.md": _cli_page,
    "deploy/prometheus/narthex.yml": _rules,
    "deploy/prometheus/narthex_test.yml": _rule_tests,
    "docs/runbooks/README.md": _alerts_index,
    **_runbooks(),
    **_dashboards(),
}


def stale() -> list[str]:
    """Pages that do not agree with the code."""
    return [name for name, render in pages().items() if not _is_current(name, _text(ROOT / name), render)]


@cache
def pages() -> dict[str, Callable[[], str]]:
    """`PAGES`, and the manifests in deploy/ with the defaults of a deployment."""
    from narthex.deploy.rendering import PLATFORMS, DeploymentTarget, render
    from narthex.settings import load

    settings = load({}, {}, Path(os.devnull))
    return PAGES | {
        f"deploy/{platform}/{path}": partial(str, text)
        for platform in PLATFORMS
        for path, text in render(platform, settings, DeploymentTarget()).items()
    }


def _is_current(name: str, text: str, render: Callable[[], str]) -> bool:
    if name == "docs/map-tests.md":  # a new test of an old module makes no row wrong
        from tests.map_of_tests import holds

        return holds(text)
    return text == render()


def write() -> list[str]:
    """Bring the stale pages up to date; their names."""
    found = stale()
    for name in found:
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(pages()[name](), encoding="utf-8")
    return found


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""
