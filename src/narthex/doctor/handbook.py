"""The knowledge base as text for people: `narthex doctor --explain CODE` and docs/troubleshooting.md.

Not here: the prose (`signatures.toml`, `refusals.toml`). Rules: both come from the same data; a test holds the page
current (`python -m narthex doctor --explain all`).
"""

from __future__ import annotations

import difflib
from typing import Final

from narthex.doctor.knowledge import RefusalWhy, Signature, refusal_whys, signatures
from narthex.domain.refusals import TABLE
from narthex.errors import ClientError

ALL: Final = "all"


def explain(code: str) -> str:
    """One code, or `all` for the whole page as Markdown.

    Raises:
        ClientError: there is no such code.
    """
    if code == ALL:
        return page().rstrip("\n")
    parts = []
    if code in signatures():
        parts.append(_signature_text(signatures()[code]))
    if code in refusal_whys():
        parts.append(_refusal_text(refusal_whys()[code]))
    if not parts and code.isdigit():
        parts = _by_number(int(code))
    if parts:
        return "\n\n".join(parts)
    close = difflib.get_close_matches(code, [*signatures(), *refusal_whys()], n=3)
    hint = f"Did you mean {', '.join(close)}?" if close else "docs/troubleshooting.md lists them."
    raise ClientError("unknown_code", f"There is no code {code[:40]!r}.", hint)


def page() -> str:
    """docs/troubleshooting.md."""
    lines = [
        "# Why does it fail?",
        "",
        "<!-- Generated: python -m narthex doctor --explain all > docs/troubleshooting.md -->",
        "",
        "`narthex doctor URL` finds out; this page is everything that it knows, and the same as",
        "`narthex doctor --explain CODE`. First what goes wrong between client and server (any WebSocket server),",
        "then each refusal and disconnect of a narthex.",
        "",
        "| seen | code |",
        "| --- | --- |",
        *(f"| {_cell(entry.name)} | [`{entry.code}`](#{entry.code}) |" for entry in signatures().values()),
        "",
    ]
    for entry in signatures().values():
        lines += _signature_section(entry)
    lines += ["## Refusals and disconnects of a narthex", ""]
    for why in refusal_whys().values():
        lines += _refusal_section(why)
    return "\n".join(lines).rstrip() + "\n"


def _signature_text(entry: Signature) -> str:
    lines = [f"{entry.code}: {entry.name}", "", f"Seen: {entry.seen}", ""]
    lines += _whys(f"{entry.name}.", entry.whys)
    lines += ["", "Fix:", *(f"  {step}" for step in entry.fix), "", f"Confirm: {entry.confirm}"]
    lines.append(f"Sure: {entry.sure}{' (read, not seen by us)' if entry.recalled else ''}")
    return "\n".join(lines)


def _refusal_text(why: RefusalWhy) -> str:
    row = TABLE[why.code]
    lines = [f"{why.code}: {row.title} ({_surfaces(why.code)})", ""]
    lines += _whys(f"{row.title}.", why.whys)
    lines += ["", "Fix:", f"  {row.remedy}", *(f"  {step}" for step in why.fix)]
    return "\n".join(lines)


def _whys(symptom: str, whys: tuple[str, ...]) -> list[str]:
    """The chain: each line answers why the one above it is so."""
    lines = [symptom]
    lines += [f"{'  ' * depth}why? {why}" for depth, why in enumerate(whys, 1)]
    return lines


def _by_number(number: int) -> list[str]:
    """By the number of the signature, or by close code or HTTP status of a refusal."""
    found = [_signature_text(entry) for entry in signatures().values() if entry.number == number]
    found += [
        _refusal_text(why)
        for code, why in refusal_whys().items()
        if number in (TABLE[code].http, TABLE[code].close)
    ]
    return found


def _signature_section(entry: Signature) -> list[str]:
    lines = [f"## {entry.code}", "", f"**{entry.name}.** {entry.seen}", ""]
    lines += [f"{number}. {why}" for number, why in enumerate(entry.whys, 1)]
    lines += ["", *(f"- Fix: {step}" for step in entry.fix), f"- Confirm: `{entry.confirm}`"]
    if entry.recalled:
        lines.append("- From documentation; not seen by us.")
    return [*lines, ""]


def _refusal_section(why: RefusalWhy) -> list[str]:
    row = TABLE[why.code]
    lines = [f"### {why.code}", "", f"**{row.title}** ({_surfaces(why.code)}).", ""]
    lines += [f"{number}. {cause}" for number, cause in enumerate(why.whys, 1)]
    return [*lines, "", f"- Fix: {row.remedy}", *(f"- {step}" for step in why.fix), ""]


def _surfaces(code: str) -> str:
    row = TABLE[code]
    shown = [f"HTTP {row.http}" if row.http else "", f"close {row.close}" if row.close else ""]
    return ", ".join(word for word in shown if word)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
