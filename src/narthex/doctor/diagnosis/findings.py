"""Values of a diagnosis: a finding is a recognised signature with this endpoint's values.

Not here: the rules that make findings. Rules: `line` is one line, made from the knowledge base.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from narthex.doctor.knowledge import Sure, signatures

Severity = Literal["failure", "warning"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One cause.

    Attributes:
        code: of `knowledge.signatures`.
        line: the observation and its meaning, one line, for people.
        severity: `failure` when users cannot connect or stay, else `warning`.
        sure: how sure the cause is.
        whys: the chain from the symptom down to the cause that can be changed.
        fix: the steps of the remedy, in order.
        confirm: how to make sure.
        evidence: names of the requests that showed it.
    """

    code: str
    line: str
    severity: Severity
    sure: Sure
    whys: tuple[str, ...]
    fix: tuple[str, ...]
    confirm: str
    evidence: tuple[str, ...] = ()


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, the cause first; notes are worth knowing and no fault.

    Attributes:
        reachable: whether anything answered TCP.
        works: one line on the working parts, when nothing is wrong.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    reachable: bool = True
    works: str = ""

    @property
    def failed(self) -> bool:
        """Whether users cannot connect, not all of them can, or they cannot stay."""
        return any(finding.severity == "failure" for finding in self.findings)

    @property
    def first_line(self) -> str:
        """The line to show first."""
        if not self.findings:
            return f"ok: {self.works}"
        first = self.findings[0]
        return f"{first.code}{'' if self.failed else ' (it works; a warning)'}: {first.line}"


class _Blank(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return ""


def found(
    code: str,
    /,
    *,
    severity: Severity = "failure",
    sure: Sure | None = None,
    seen_in: tuple[str, ...] = (),
    **values: object,
) -> Finding:
    """Make a finding from the knowledge base; `values` fill its line."""
    entry = signatures()[code]
    return Finding(
        code=code,
        line=" ".join(entry.says.format_map(_Blank(values)).split()),
        severity=severity,
        sure=sure or entry.sure,
        whys=entry.whys,
        fix=tuple(line.replace("{server}", str(values.get("server", "the server"))) for line in entry.fix),
        confirm=entry.confirm,
        evidence=seen_in,
    )
