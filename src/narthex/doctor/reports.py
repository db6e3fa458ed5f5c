"""Renders a diagnosis as text, JSON and JUnit.

Not here: printing (`narthex.cli.doctor`). Rules: the first line names the cause; outside text is made harmless for a
terminal.
"""

from __future__ import annotations

import json
import textwrap
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import msgspec

from narthex.doctor.diagnosis import Diagnosis, Finding
from narthex.doctor.observations import HttpExchange, Observations

WIDTH = 110


def as_text(diagnosis: Diagnosis, seen: Observations, *, details: bool = False) -> str:
    """For people: the cause first, then the remedy, then the observations."""
    lines = [harmless(diagnosis.first_line)]
    for number, finding in enumerate(diagnosis.findings):
        if number:
            lines += ["", harmless(f"{finding.code}: {finding.line}")]
        lines += _explained(finding)
    lines += [""] if diagnosis.findings or diagnosis.notes else []
    lines += [harmless(f"note: {note}") for note in diagnosis.notes]
    if details or diagnosis.findings:
        lines += ["", "Seen, in order:", *_seen(seen)]
    if diagnosis.findings:
        lines += ["", f"More: narthex doctor --explain {diagnosis.findings[0].code}"]
    return "\n".join(lines).rstrip()


def as_json(diagnosis: Diagnosis, seen: Observations) -> str:
    """For machines: `ok`, `first_line`, `findings`, `notes` and every observation."""
    return json.dumps(
        {
            "ok": not diagnosis.failed,
            "reachable": diagnosis.reachable,
            "url": seen.url,
            "first_line": diagnosis.first_line,
            "findings": msgspec.to_builtins(diagnosis.findings),
            "notes": list(diagnosis.notes),
            "observations": msgspec.to_builtins(seen),
        },
        indent=2,
    )


def as_junit(diagnosis: Diagnosis, seen: Observations) -> str:
    """For pipelines: one case a finding; a warning is a case that passes and says so in its output."""
    cases = [_case(finding) for finding in diagnosis.findings]
    if not cases:
        cases = [f"  <testcase classname='narthex.doctor' name={quoteattr(harmless(diagnosis.first_line))}/>"]
    failures = sum(finding.severity == "failure" for finding in diagnosis.findings)
    name = quoteattr(f"narthex doctor {seen.url}")
    suite = f"<testsuite name={name} tests='{len(cases)}' failures='{failures}' errors='0' skipped='0'>"
    return "\n".join(["<?xml version='1.0' encoding='utf-8'?>", suite, *cases, "</testsuite>", ""])


def harmless(text: str) -> str:
    """Text from outside on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)


def _explained(finding: Finding) -> list[str]:
    # The last why but one is mostly the cause that can be changed; all of them are in --explain.
    lines = _wrapped("why", finding.whys)
    lines += _wrapped("fix", finding.fix)
    lines += _wrapped("confirm", (finding.confirm,))
    return [*lines, f"  {'sure':<8} {finding.sure}"]


def _wrapped(label: str, sentences: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    for number, sentence in enumerate(sentences):
        head = f"  {label if not number else '':<8} "
        lines += textwrap.wrap(
            harmless(sentence), WIDTH, initial_indent=head, subsequent_indent=" " * 11, break_on_hyphens=False
        )
    return lines


def _case(finding: Finding) -> str:
    name = quoteattr(finding.code)
    line = harmless(finding.line)
    inner = f"<system-out>{escape(line)}</system-out>"
    if finding.severity == "failure":
        inner = f"<failure message={quoteattr(line)}>{escape(' '.join(finding.fix))}</failure>"
    return f"  <testcase classname='narthex.doctor' name={name}>{inner}</testcase>"


def _seen(seen: Observations) -> list[str]:
    rows: list[tuple[str, str]] = []
    lookup = seen.lookup
    rows.append(("DNS", f"{', '.join(lookup.addresses) or lookup.error}  {lookup.ms:g} ms"))
    rows += [(f"TCP {dial.address}", f"{dial.outcome}  {dial.ms:g} ms") for dial in seen.dials]
    if (tls := seen.tls) is not None:
        said = f"{tls.outcome} {tls.version} {tls.detail}".strip()
        rows.append(("TLS", f"{said}  alpn {tls.alpn or 'none'}  {tls.ms:g} ms"))
    rows += [(made.attempt.name, _outcome(made)) for made in seen.exchanges]
    rows += [(step.name, f"{'ok' if step.ok else step.detail}  {step.ms:g} ms") for step in seen.steps]
    for held in seen.holds:
        name = f"held, pinging every {held.ping_every_s:g} s" if held.pings else "held, quiet"
        close = f" {held.close.code}" if held.close else ""
        rows.append((name, f"{held.lived_s:g} s, {held.ended}{close}"))
    width = max(len(name) for name, _ in rows)
    return [f"  {harmless(name):<{width}}  {harmless(said)}" for name, said in rows]


def _outcome(made: HttpExchange) -> str:
    if made.end != "response":
        return f"{made.end}  {made.total_ms:g} ms"
    said = f"{made.status} {made.phrase}".strip()
    server = made.headers.get("server", "")
    extra: list[Any] = [f"server {server}" if server else "", *made.faults]
    if made.close is not None:
        extra.append(f"closed {made.close.code} {made.close.reason}")
    if made.cut_ms is not None:
        extra.append("cut")
    if made.status != 101 and not made.html and made.body:
        extra.append(repr(made.body[:60]))
    return "  ".join([said, f"{made.first_byte_ms:g} ms", *(word for word in extra if word)])
