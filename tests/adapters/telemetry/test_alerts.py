"""The table of alerts: promtool's tests, runbooks, thresholds, and names that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.adapters.telemetry import alert_rules, runbooks
from narthex.adapters.telemetry.alerts import ALERTS, THRESHOLDS, WORDS, Alert
from narthex.adapters.telemetry.catalogue import CATALOGUE
from narthex.cli.commands import COMMANDS
from narthex.domain.refusals import TABLE
from narthex.errors import ConfigError
from tests.services import missing

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "narthex.yml"
RUNBOOKS = Path(runbooks.__file__).parent
OF_OTHERS = re.compile(r"up|narthex_probe_\w+")  # Prometheus' own, and `narthex probe`'s


def promtool(*words: str) -> str:
    """Run it; its output. Fails the test when it finds anything."""
    if shutil.which("promtool") is None:
        missing("promtool", "apt-get install prometheus")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)  # promtool takes 8 s, and a minute on a machine at load 12
def test_each_alert_fires_is_quiet_and_resolves_as_promtool_sees_it(tmp_path: Path) -> None:
    """The repository's rules and tests, which `./check --write-docs` writes from the table."""
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", str(RULES))
    assert "SUCCESS" in promtool("test", "rules", str(RULES.with_name("narthex_test.yml")))
    compressed = tmp_path / "narthex.yml"
    compressed.write_text(alert_rules.rules(alert_rules.thresholds({"queued_s": "1"}), scale=0.01))
    assert "SUCCESS" in promtool("check", "rules", str(compressed))


LIES: tuple[Callable[[Alert], Alert], ...] = (
    lambda alert: alert._replace(expr=f"({alert.expr}) > 1e300"),
    lambda alert: alert._replace(expr="vector(1)"),
    lambda alert: alert._replace(after_s=10 * 86_400),
)
"""A rule that cannot fire, one that always does, and one that would within ten days."""


def caught(directory: Path, rules: str) -> set[str]:
    """The alerts whose examples fail with these rules."""
    if shutil.which("promtool") is None:
        missing("promtool", "apt-get install prometheus")
    (directory / "narthex.yml").write_text(rules)
    (directory / "test.yml").write_text(alert_rules.tests())
    words = ["promtool", "test", "rules", str(directory / "test.yml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    return set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr))


@pytest.mark.timeout(300)  # likewise
def test_a_seeded_lie_in_any_rule_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alert's own examples decide: all rules are lies here, in turn of each kind, and every one is named."""
    lies = [LIES[at % len(LIES)](alert) for at, alert in enumerate(ALERTS)]
    with monkeypatch.context() as seeded:
        seeded.setattr(alert_rules, "ALERTS", lies)
        rules = alert_rules.rules(alert_rules.thresholds({}))
    assert {alert.name for alert in ALERTS} - caught(tmp_path, rules) == set()


@pytest.mark.timeout(300)  # likewise
def test_an_alert_that_goes_on_after_its_fault_is_caught(tmp_path: Path) -> None:
    """All rules fire as they should, and go on for ten hours when the fault is gone: every one is named."""
    rules = alert_rules.rules(alert_rules.thresholds({}))
    lies = rules.replace("        for: ", "        keep_firing_for: 10h\n        for: ")
    assert {alert.name for alert in ALERTS} - caught(tmp_path, lies) == set()


def faults_of_runbook(alert: Alert) -> list[str]:
    """What is wrong with the page behind an alert's link: it must answer three questions with commands that exist."""
    file = RUNBOOKS / f"{alert.slug}.md"
    if not file.is_file():
        return [f"{file.name} does not exist"]
    parts = file.read_text(encoding="utf-8").split("\n## ")
    found = []
    if [part.splitlines()[0] for part in parts[1:]] != ["What it means", "What to look at", "What to do"]:
        found.append("its headings differ")
    if not all(len(part.split()) > 10 for part in parts[1:]):
        found.append("a part says nothing")
    commands = re.findall(r"`narthex ([a-z]+)", "".join(parts[2:]))
    if not commands or not set(commands) <= set(COMMANDS):
        found.append("it names no command, or one that does not exist")
    return found


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_a_runbook(alert: Alert) -> None:
    """A page with the three questions, and a command of narthex that exists."""
    assert faults_of_runbook(alert) == []


def test_a_dead_link_to_a_runbook_is_caught() -> None:
    """A seeded lie: an alert whose page is not there."""
    assert faults_of_runbook(ALERTS[0]._replace(name="NarthexGone")) == ["gone.md does not exist"]


def test_every_page_is_an_alerts() -> None:
    """None is left behind when an alert goes."""
    slugs = {alert.slug for alert in ALERTS}
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == slugs
    assert {page.stem for page in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"} == slugs


def test_names_in_expressions_exist() -> None:
    """A misspelt metric or label never fires."""
    declared = {metric.full_name: set(metric.labels) for metric in CATALOGUE}
    for alert in ALERTS:
        text = alert_rules.expression(alert, alert_rules.thresholds({}))
        for name, inside in re.findall(r"\b(narthex_\w+|up)(?:{([^}]*)})?", text):
            base = re.sub(r"_bucket$", "", name)
            if OF_OTHERS.fullmatch(base):
                continue
            assert base in declared, (alert.name, name)
            labels = set(re.findall(r"(\w+)[=!]", re.sub(r'"[^"]*"', "", inside)))
            assert labels <= declared[base] | {"job", "instance"}, (alert.name, name)


def test_every_threshold_is_of_an_alert() -> None:
    """And no alert uses one that cannot be chosen."""
    used = {word for alert in ALERTS for word in re.findall(r"\$(\w+)", alert.expr)}
    assert used - set(WORDS) == set(THRESHOLDS)


def test_refusals_are_somebodys_fault() -> None:
    """The two shares count every refusal of a credential and of the gateway, and none of a deploy."""
    client, server = WORDS["client"].split("|"), WORDS["server"].split("|")
    assert {"auth_required", "token_invalid", "origin_not_allowed", "e2e_key_wrong"} <= set(client)
    assert {"auth_unavailable", "overloaded", "internal"} <= set(server)
    assert not {"draining", "starting", "connection_limit"} & {*client, *server}
    assert {*client, *server} <= set(TABLE)


def test_an_operators_thresholds() -> None:
    """They are in the rules; a wrong name or value is a configuration error that names the remedy."""
    chosen = {"queued_s": "7", "bypass_environments": "staging", "expiry_s": "1209600"}
    text = alert_rules.rules(alert_rules.thresholds(chosen), runbooks="https://x/")
    assert "narthex_run_queue_seconds) > 7\n" in text
    assert 'environment=~"staging"' in text
    assert "< 1209600\n" in text
    assert 'runbook_url: "https://x/runs-stuck"' in text
    assert text == alert_rules.rules(alert_rules.thresholds(chosen), runbooks="https://x")
    assert text.count("runbook_url:") == text.count("- alert:") == len(ALERTS)
    with pytest.raises(ConfigError) as raised:
        alert_rules.thresholds({"queue": "1", "queued_s": "soon", "job": 'x"} or vector(1'})
    assert [problem.split()[0] for problem in raised.value.problems] == [
        "There",
        "queued_s='soon'",
        "job='x\"}",
    ]


def test_without_a_url_an_alert_names_a_command_that_shows_its_runbook() -> None:
    """The default rules have no link that leads nowhere."""
    text = alert_rules.rules(alert_rules.thresholds({}))
    assert "runbook_url" not in text
    assert text.count('runbook: "narthex alerts explain Narthex') == len(ALERTS)


def test_scale_shortens_every_duration() -> None:
    """Ranges, subqueries and `for`; thresholds stay."""
    text = alert_rules.rules(alert_rules.thresholds({}), scale=0.01)
    assert "[3s]" in text
    assert "[18s:600ms]" in text
    assert "[216s]" in text
    assert not re.search(r"\[\d+[mhd]\]", text)
    assert "for: 1200ms" in text
