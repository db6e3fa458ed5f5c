"""A finding: a signature that was seen, with this endpoint's values; and the whole diagnosis.

Not here: rules. Rules: `line` is one line, made from the knowledge base.
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
        line: what was seen and what it means, one line, for people.
        severity: `failure` when people cannot connect or stay, else `warning`.
        sure: how sure the cause is.
        whys: from what is seen down to what can be changed.
        fix: what to do, in order.
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
        works: one line of what works, when nothing is wrong.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    reachable: bool = True
    works: str = ""

    @property
    def failed(self) -> bool:
        """Whether people cannot connect, or not all of them, or cannot stay."""
        return any(finding.severity == "failure" for finding in self.findings)

    @property
    def first_line(self) -> str:
        """What to say first."""
        if not self.findings:
            return f"ok: {self.works}"
        first = self.findings[0]
        return (
            f"{first.code}: {first.line}"
            if self.failed
            else f"{first.code} (it works; a warning): {first.line}"
        )


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
