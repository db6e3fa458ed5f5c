"""The knowledge base as text for people: `narthex doctor --explain CODE` and docs/troubleshooting.md.

Not here: the prose (`signatures.toml`, `refusals.toml`, `codes.toml`). Rules: both come from the same data;
`./check --write-docs` writes the page, and the tests compare it.
"""

from __future__ import annotations

import difflib
from typing import Final

from narthex.doctor.knowledge import NumberWhy, RefusalWhy, Signature, numbers, refusal_whys, signatures
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
    if code.isdigit():
        raise ClientError(
            "unknown_code", f"No handshake returns {code[:10]}.", "docs/troubleshooting.md lists the codes."
        )
    hint = f"Did you mean {', '.join(close)}?" if close else "docs/troubleshooting.md lists them."
    raise ClientError("unknown_code", f"The code {code[:40]!r} is not known.", hint)


def page() -> str:
    """docs/troubleshooting.md."""
    lines = [
        "# Why does it fail?",
        "",
        "<!-- Made from src/narthex/doctor/*.toml: `./check --write-docs` -->",
        "",
        "`narthex doctor URL` finds the cause; this page is its whole knowledge base, the same text as",
        "`narthex doctor --explain CODE` prints. First the faults between client and server (any WebSocket server),",
        "then each close code and HTTP status that a client can see, then each refusal and disconnect of a narthex.",
        "",
        "| seen | code |",
        "| --- | --- |",
        *(f"| {_cell(entry.name)} | [`{entry.code}`](#{entry.code}) |" for entry in signatures().values()),
        "",
    ]
    for entry in signatures().values():
        lines += _signature_section(entry)
    lines += ["## Close codes and HTTP statuses", ""]
    lines += [
        "The meaning of each number that a client shows, for any server. Browsers show 1006 for nearly everything.",
        "",
    ]
    for number in numbers().values():
        lines += _number_section(number)
    lines += ["## Refusals and disconnects of a narthex", ""]
    for why in refusal_whys().values():
        lines += _refusal_section(why)
    return "\n".join(lines).rstrip() + "\n"


def _signature_text(entry: Signature) -> str:
    lines = [f"{entry.code}: {entry.name}", "", f"Seen: {entry.seen}", ""]
    lines += _whys(f"{entry.name}.", entry.whys)
    lines += ["", "Fix:", *(f"  {step}" for step in entry.fix), "", f"Confirm: {entry.confirm}"]
    lines.append(f"Sure: {entry.sure}{' (from documentation, not observed)' if entry.recalled else ''}")
    return "\n".join(lines)


def _refusal_text(why: RefusalWhy) -> str:
    row = TABLE[why.code]
    lines = [f"{why.code}: {row.title} ({_surfaces(why.code)})", ""]
    lines += _whys(f"{row.title}.", why.whys)
    lines += ["", "Fix:", f"  {row.remedy}", *(f"  {step}" for step in why.fix)]
    return "\n".join(lines)


def _whys(symptom: str, whys: tuple[str, ...]) -> list[str]:
    """The chain of causes: each line explains the one above it."""
    lines = [symptom]
    lines += [f"{'  ' * depth}why? {why}" for depth, why in enumerate(whys, 1)]
    return lines


def _by_number(number: int) -> list[str]:
    """By the number of the signature, or as the close code or HTTP status that a client saw."""
    found = [_signature_text(entry) for entry in signatures().values() if entry.number == number]
    if number in numbers():
        found.append(_number_text(numbers()[number]))
    elif not found and (other := _other_number(number)):
        found.append(other)
    return found


def _number_text(entry: NumberWhy) -> str:
    lines = [f"{_number_title(entry)}: {entry.name}", ""]
    lines += _whys(_number_symptom(entry), entry.whys)
    lines += ["", "Fix:", *(f"  {step}" for step in entry.fix)]
    if related := related_codes(entry):
        lines += ["", "Possible causes, which `narthex doctor URL` tells apart; --explain describes each:"]
        lines += [f"  {code:<24} {_name_of(code)}" for code in related]
    return "\n".join(lines)


def _number_title(entry: NumberWhy) -> str:
    return f"{'close' if entry.kind == 'close' else 'HTTP'} {entry.number}"


def _number_symptom(entry: NumberWhy) -> str:
    seen = "The socket closes with" if entry.kind == "close" else "The answer to the handshake is"
    return f"{seen} {entry.number}: {entry.name}.{_after(entry.number) if entry.kind == 'close' else ''}"


def _after(number: int) -> str:
    """The reaction of Centrifuge SDKs to a close code of their ranges."""
    if not 3000 <= number < 5000:
        return ""
    stays = number % 1000 >= 500
    return " Centrifuge SDKs " + ("do not reconnect." if stays else "reconnect.")


def related_codes(entry: NumberWhy) -> list[str]:
    """Signatures that show the number, then every refusal of a narthex with it."""
    refusals = [code for code, row in TABLE.items() if entry.number in (row.http, row.close)]
    return list(dict.fromkeys([*entry.see, *refusals]))


def _name_of(code: str) -> str:
    return signatures()[code].name if code in signatures() else TABLE[code].title


def _other_number(number: int) -> str:
    """A number that has no page of its own, by its range; empty when no handshake shows it."""
    if 4000 <= number < 5000:
        return f"close {number}: a code that the application defines; see its documentation.{_after(number)}"
    if 3000 <= number < 4000:
        return f"close {number}: a code that the server's library or framework defines.{_after(number)}"
    if 1000 <= number < 3000:
        return f"close {number}: reserved by RFC 6455 (section 7.4.2); a server must not send it."
    classes = {
        1: "informational: only 101 opens a WebSocket",
        2: "success, but no upgrade: the server treated the handshake as a plain request",
        3: "a redirect: WebSocket clients do not follow it",
        4: "the server refuses the request: read the body",
        5: "the server or a proxy failed: check its log",
    }
    if 100 <= number < 600:
        return f"HTTP {number}: {classes[number // 100]}. `narthex doctor URL` shows which hop answered."
    return ""


def _number_section(entry: NumberWhy) -> list[str]:
    lines = [f"### {_number_title(entry)}", "", f"**{entry.name}.**{_after(entry.number)}", ""]
    lines += [f"{number}. {why}" for number, why in enumerate(entry.whys, 1)]
    lines += ["", *(f"- Fix: {step}" for step in entry.fix)]
    if related := related_codes(entry):
        lines.append(f"- Tell apart: {', '.join(f'[`{code}`](#{code})' for code in related)}")
    return [*lines, ""]


def _signature_section(entry: Signature) -> list[str]:
    lines = [f"## {entry.code}", "", f"**{entry.name}.** {entry.seen}", ""]
    lines += [f"{number}. {why}" for number, why in enumerate(entry.whys, 1)]
    lines += ["", *(f"- Fix: {step}" for step in entry.fix), f"- Confirm: `{entry.confirm}`"]
    if entry.recalled:
        lines.append("- From documentation; not observed by us.")
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
