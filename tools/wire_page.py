"""docs/asyncapi.md as text: the AsyncAPI document for readers. `./check --write-docs` writes it."""

from __future__ import annotations

import json
from typing import Any, Final

from tools.asyncapi import document
from tools.schema_tables import component_sections, member_table, type_text
from tools.schemas import Schema

_HEAD: Final = """# Protocol reference

<!-- Made from src/narthex/protocol, app/rpc and domain by tools/wire_page.py: `./check --write-docs` -->

Every command, reply, push, event and code of the wire. [protocol.md](protocol.md) explains how they work together.
[asyncapi.json](asyncapi.json) is the same as a document for programs (AsyncAPI 3.0). The examples are frames of a
recorded conversation; a test compares each frame of such a conversation with this page's schemas.
"""


def page() -> str:
    """The page."""
    made = document()
    messages: dict[str, Any] = made["components"]["messages"]
    websocket = made["channels"]["websocket"]
    lines = [_HEAD, "## Commands", "", websocket["description"], ""]
    for name, message in messages.items():
        if name in made["operations"] and not name.startswith("rpc."):
            lines += _command(name, message, messages)
    lines += ["## RPC methods", "", "The command `rpc` has `method` and `data`; its reply has `data`.", ""]
    for name, message in messages.items():
        if name.startswith("rpc.") and not name.endswith(".reply"):
            lines += _method(name.removeprefix("rpc."), message, messages[f"{name}.reply"])
    lines += [
        "## Pushes",
        "",
        'The gateway sends them without being asked: `{"push": {"channel": …, …}}`.',
        "",
    ]
    for name, message in messages.items():
        if name.startswith("push."):
            push = message["payload"]["properties"]["push"]
            [kind] = [one for one in push["properties"] if one != "channel"]
            lines += [f"### Push {kind}", "", message["summary"], ""]
            inner = push["properties"][kind]
            lines += member_table(inner) or [f"It is a {type_text(inner)}."]
            lines += ["", *_example(message)]
    lines += _events("Events in threads", "event.", messages, made["channels"]["thread"]["description"])
    lines += _events("Notices", "notice.", messages, made["channels"]["user"]["description"])
    lines += [
        "## Error codes",
        "",
        "In `error.code` of a reply. Codes from 400 are of RPC methods, whose message begins with a name.",
        "",
    ]
    lines += ["| code | meaning |", "| --- | --- |"]
    lines += [f"| {code} | {meaning} |" for code, meaning in websocket["x-error-codes"].items()]
    lines += ["", "## Close codes", "", "| code | reasons | SDKs reconnect |", "| --- | --- | --- |"]
    lines += [
        f"| {code} | {', '.join(f'`{reason}`' for reason in row['reasons'])} | {'yes' if row['reconnect'] else 'no'} |"
        for code, row in websocket["x-close-codes"].items()
    ]
    lines += [
        "",
        "[refusals.md](refusals.md) says of each reason what happened and what to do.",
        "",
        "## Objects",
        "",
    ]
    lines += component_sections(made["components"]["schemas"])
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, message: dict[str, Any], messages: dict[str, Any]) -> list[str]:
    lines = [
        f"### {name}",
        "",
        message["summary"],
        "",
        *member_table(message["payload"]["properties"][name], "required"),
        "",
    ]
    reply = messages.get(f"{name}.reply")
    if reply is not None:
        lines += [f"Reply: {_reply(reply['payload']['properties'][name])}", ""]
    return lines + _example(message, reply)


def _method(name: str, message: dict[str, Any], reply: dict[str, Any]) -> list[str]:
    data = message["payload"]["properties"]["rpc"]["properties"]["data"]
    result = reply["payload"]["properties"]["rpc"]["properties"]["data"]
    lines = [f"### {name}", "", message["summary"], "", *member_table(data, "required"), ""]
    return [*lines, f"Result: {_reply(result)}", "", *_example(message, reply)]


def _reply(schema: Schema) -> str:
    if schema.get("properties") == {}:
        return "`{}`."
    text = type_text(schema)
    return f"{text.removeprefix('object: ')}."


def _example(*messages: dict[str, Any] | None) -> list[str]:
    """The recorded frames, one a line, each valid JSON."""
    shown = [
        json.dumps(one["payload"], ensure_ascii=False)
        for message in messages
        if message
        for one in message.get("examples", ())
    ]
    lines: list[str] = []
    for text in shown:
        if len(text) < 1500:
            lines += ["```json", text, "```", ""]
    return lines


def _events(title: str, prefix: str, messages: dict[str, Any], about: str) -> list[str]:
    lines = [f"## {title}", "", about, "", "| event | when | members |", "| --- | --- | --- |"]
    for name, message in messages.items():
        if name.startswith(prefix):
            schema = message["payload"]
            shown = (
                schema["properties"].get("value")
                if "const" in schema["properties"].get("name", {})
                else schema
            )
            said = type_text({"type": "object", **_without_stamps(shown or {})}).removeprefix("object: ")
            lines.append(f"| `{name.removeprefix(prefix)}` | {message['summary']} | {said} |")
    return [*lines, ""]


def _without_stamps(schema: Schema) -> Schema:
    from tools.wire_tables import STAMPS

    hidden = {"type"} if "type" in schema.get("properties", {}) and "seq" in schema["properties"] else set()
    kept = {
        name: one
        for name, one in schema.get("properties", {}).items()
        if name not in hidden and not (hidden and name in STAMPS)
    }
    return {"properties": kept, "required": schema.get("required", [])}
