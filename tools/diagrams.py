"""The diagrams of docs/design.md that are drawn from the code: layers, order of admission, phases, states of a run.

As Mermaid text, which forges and the documentation site draw. Not here: the journeys' diagrams, which people write and
`tests/docs/test_design.py` compares with the code.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final, NamedTuple

from narthex.domain.refusals import TABLE
from narthex.domain.runs import TRANSITIONS, RunState
from narthex.protocol.session import NEVER, Due, Phase, Session, SessionFault, SessionLimits

ROOT: Final = Path(__file__).resolve().parent.parent


class Check(NamedTuple):
    """A step of admission: the question, and the codes of the refusals that it can end with."""

    question: str
    codes: tuple[str, ...]


ADMISSION: Final = (
    Check("Does Host name this gateway?", ("bad_request",)),
    Check("Is the process ready?", ("starting", "draining")),
    Check("Are the credentials well-formed, and none in the URL?", ("credential_in_url", "bad_request")),
    Check("Is the Origin allowed?", ("origin_not_allowed",)),
    Check(
        "Does an end-to-end key come alone, and where it is accepted?",
        ("credential_conflict", "e2e_not_allowed_here"),
    ),
    Check("Is there room in the process and for the address?", ("connection_limit",)),
    Check(
        "Do the credentials verify?",
        ("token_malformed", "token_invalid", "token_expired", "auth_unavailable"),
    ),
    Check("Is a test identity in its tenant, and no other?", ("tenant_mismatch", "e2e_not_allowed_here")),
    Check("Is there room for this user?", ("connection_limit",)),
)
"""The order of the checks of a handshake; `tests/docs/test_diagrams.py` has a request fail at each in turn."""


def fenced(lines: list[str]) -> str:
    """A block of Mermaid."""
    return "\n".join(["```mermaid", *lines, "```"])


def layers() -> str:
    """The packages from top to bottom, as import-linter enforces them."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = [re.findall(r"\w+", row) for row in config["tool"]["importlinter"]["contracts"][0]["layers"]]
    lines = ["flowchart TB"]
    for number, row in enumerate(rows):
        lines.append(f'    L{number}["{" · ".join(name for name in row if name != "_version")}"]')
    lines.append("    " + " --> ".join(f"L{number}" for number in range(len(rows))))
    return fenced(lines)


def admission() -> str:
    """The checks of a handshake in their order, each with its refusals."""
    lines = ["flowchart TB"]
    for number, check in enumerate(ADMISSION):
        refusals = "<br/>".join(f"{TABLE[code].http} {code}" for code in check.codes)
        lines += [f'    C{number}["{check.question}"]', f'    C{number} -- no --> R{number}(["{refusals}"])']
    chain = " -- yes --> ".join(f"C{number}" for number in range(len(ADMISSION)))
    lines.append(f'    {chain} -- yes --> done(["101: connected, or inert until it sends a proof"])')
    return fenced(lines)


def run_states() -> str:
    """The states of a run."""
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {RunState.QUEUED}"]
    lines += [
        f"    {before} --> {after}: {event.replace('_', ' ')}"
        for (before, event), after in TRANSITIONS.items()
    ]
    ended = [state for state in RunState if not any(before is state for before, _ in TRANSITIONS)]
    return fenced([*lines, *(f"    {state} --> [*]" for state in ended)])


def phases() -> str:
    """The phases of a connection, found by giving a session of each phase every input, and letting time pass."""
    lines = ["stateDiagram-v2", "    direction LR", f"    [*] --> {Phase.WAITING.name}"]
    for phase in (Phase.WAITING, Phase.CONNECTING, Phase.LIVE):
        ends: list[str] = []
        for name, frame in (
            ("connect", b'{"id":1,"connect":{}}'),
            ("other command", b'{"id":1,"ping":{}}'),
            ("pong", b"{}"),
        ):
            session = _session(phase)
            try:
                session.receive(frame, 0.0)
            except SessionFault as fault:
                ends.append(f"{fault.disconnect.code} {name}")
                continue
            if session.phase is not phase:
                lines.append(f"    {phase.name} --> {session.phase.name}: {name}")
        ends += _by_time(phase)
        if phase is Phase.CONNECTING:
            lines.append(f"    {phase.name} --> {Phase.LIVE.name}: admitted")
            lines.append(f"    {phase.name} --> {Phase.WAITING.name}: token refused, may try again")
        lines.append(f"    {phase.name} --> {Phase.CLOSED.name}: {'<br/>'.join(ends)}")
    return fenced([*lines, f"    {Phase.CLOSED.name} --> [*]"])


def _session(phase: Phase, *, expires_at: float = NEVER, life_s: float = NEVER) -> Session:
    session = Session(SessionLimits(), 0.0)
    if phase is not Phase.WAITING:
        session.receive(b'{"id":1,"connect":{}}', 0.0)
    if phase is Phase.LIVE:
        session.connected(0.0, expires_at=expires_at, life_s=life_s)
    return session


def _by_time(phase: Phase) -> list[str]:
    """The closes that come with time: silence, an expired token, no pong, the end of the connection's life."""
    found: list[str] = []
    for options in ({}, {"expires_at": 1.0}, {"life_s": 1.0}):
        session = _session(phase, **options)
        due = Due(False, None)
        while due.disconnect is None and session.wake_at() < NEVER:
            due = session.due(session.wake_at())
        if due.disconnect is not None:
            found.append(f"{due.disconnect.code} {due.disconnect.reason.partition(':')[0].replace('_', ' ')}")
    return list(dict.fromkeys(found))
