"""Renders the concierge's answers as Markdown: its help, the gateway's health, refusals. Not here: choosing an answer.

Rules: pure; a refusal is explained by its row in the table of refusals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from narthex.domain.refusals import TABLE

HELP: Final = """I am the concierge of this gateway. I have no language model; I understand these commands:

| say | and I will |
| --- | --- |
| `health` | show the gateway's health and every check |
| `who am I` | show the identity that the gateway has for you |
| `why was I refused 401` | explain a refusal by its code, HTTP status or close code |
| `codes` | list every refusal |
| `watch for 10 seconds` | watch the gateway's health, step by step; steer me with `faster`, `slower` or `enough` |
| `check with approval` | ask for your approval first, then check everything |
| `count to 20` | count word by word (`fast`, `slowly`) |
| `echo …` | repeat your text |
| `markdown` | show a table, a list and code |
| `time` | show the server's time |

To use your own agent, start `narthex serve --agent your_module:your_function`.
"""

MARKDOWN: Final = """Here is what I can format.

## A table

| event | when |
| --- | --- |
| `RUN_STARTED` | a run begins |
| `TEXT_MESSAGE_CONTENT` | text streams |
| `RUN_FINISHED` | the run has ended; has `count` and `digest` |

## Code

```python
async def agent(run):
    yield "Hello, "
    yield run.user.name or run.user.subject
```

- *emphasis* and **strong words**
- a [link](https://docs.ag-ui.com)
- `inline code`
"""


def refusal_codes(text: str) -> list[str]:
    """The refusals that a text names: by code, HTTP status or close code."""
    named = [code for code in TABLE if re.search(rf"\b{code}\b", text)]
    if named:
        return named
    numbers = {int(number) for number in re.findall(r"\b\d{3,4}\b", text)}
    return [code for code, row in TABLE.items() if row.http in numbers or row.close in numbers]


def refusal_report(asked: str, codes: list[str]) -> str:
    """The explanation of `codes`, the refusals that the question `asked` names."""
    if re.search(r"\b1006\b", asked):
        return (
            "1006 does not come from the gateway: the browser reports a refused handshake that way. Request "
            "`GET /ws/preflight` with the same credential, or offer the subprotocol `narthex.explain`, to get the "
            "reason as text.\n"
        )
    if not codes:
        return (
            "Tell me the code, the HTTP status or the close code that you saw, for example "
            "`why was I refused token_expired` or `why 3500`. Every refusal has a code: in the JSON body, or at the "
            "start of the close reason. `codes` lists them all.\n"
        )
    rows = "\n".join(
        f"| `{code}` | {TABLE[code].http or '–'} | {TABLE[code].close or '–'} | {TABLE[code].title} "
        f"| {TABLE[code].remedy} |"
        for code in codes
    )
    return f"| code | HTTP | close | what happened | what to do |\n| --- | --- | --- | --- | --- |\n{rows}\n"


def brief(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the health body that are worth showing as a tool's result."""
    return {
        name: body[name] for name in ("status", "service", "version", "environment", "checks") if name in body
    }


def health_report(body: Mapping[str, Any]) -> str:
    """The body of `/ws/health` as a sentence and a table of its checks."""
    checks = body.get("checks") or {}
    rows = "\n".join(
        f"| {name} | {check.get('status', '?')} | {_ms(check.get('latency_ms'))} | {cell(check.get('detail', ''))} |"
        for name, check in checks.items()
    )
    status = body.get("status", "unknown")
    table = f"\n\n| check | status | ms | detail |\n| --- | --- | --- | --- |\n{rows}" if rows else ""
    return f"The gateway is **{status}**.{table}\n"


def _ms(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "–"


def cell(value: object) -> str:
    """A value as it may stand in a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
