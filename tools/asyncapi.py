"""The wire as an AsyncAPI 3.0 document: every command, reply, push, event, error code and close code.

Not here: the page that shows it (`wire_page`), schemas of what the code has no table of (`wire_tables`). Commands and
replies come from the Structs of `narthex.protocol`, RPC methods and their params from `narthex.app.rpc`, events from
`narthex.domain.events`, codes from the tables of refusals and errors. `./check --write-docs` writes docs/asyncapi.json.
The examples are frames of a real conversation (`python -m tests.docs.conversation` records them anew).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec

from narthex._version import __version__
from narthex.app.rpc import BasicMethods, Method, RunMethods, ThreadMethods
from narthex.domain import endpoints, events
from narthex.domain.problem_table import ERRORS
from narthex.domain.refusals import TABLE, is_final
from narthex.protocol import codes, commands, replies
from tools.schemas import ANY, BOOLEAN, INTEGER, STRING, Components, Schema, members
from tools.wire_tables import EVENTS, METHODS, NOTICES, OPTIONAL, STAMPS, Custom, explained

EXAMPLES: Final = Path(__file__).parent / "wire_frames.json"
JSON_TYPES: Final[dict[Any, str]] = {str: "string", list: "array", dict: "object"}

RESULTS: Final[dict[str, Any]] = {
    "connect": replies.ConnectResult,
    "subscribe": replies.SubscribeResult,
    "unsubscribe": members({}),
    "publish": members({}),
    "presence": replies.PresenceResult,
    "presence_stats": replies.PresenceStatsResult,
    "history": replies.HistoryResult,
    "refresh": replies.RefreshResult,
    "ping": members({}),
}
"""What answers a command. `send` has no reply, `sub_refresh` is always answered with an error."""

SUMMARIES: Final[dict[str, str]] = {
    "connect": "The first command: proves who the client is, and begins the session.",
    "subscribe": "Follow a channel, from a position where one is given.",
    "unsubscribe": "Stop following a channel.",
    "publish": "Append to a channel; services with the permission `admin` only.",
    "presence": "List the clients in a channel.",
    "presence_stats": "Count the clients in a channel.",
    "history": "Read a channel's publications.",
    "ping": "A ping of old clients.",
    "send": "A message without a reply; it is counted and ignored.",
    "refresh": "Give a fresh token for the connection.",
    "sub_refresh": "A fresh token for a subscription: answered with error 108, because membership decides.",
}

PUSHES: Final[dict[str, tuple[str, Any]]] = {
    "join": ("A client came to a channel.", members({"info": replies.ClientInfo})),
    "leave": ("A client left a channel.", members({"info": replies.ClientInfo})),
    "subscribe": ("The server subscribed the connection to a channel.", replies.SubscribeResult),
    "unsubscribe": (
        "The server ended a subscription.",
        members({"code": INTEGER, "reason": STRING}),
    ),
    "disconnect": (
        "In place of a close frame, on HTTP streams and SSE.",
        members({"code": INTEGER, "reason": STRING, "reconnect": BOOLEAN}),
    ),
}


def methods() -> dict[str, Method]:
    """The RPC methods of a gateway. None of them can be called."""
    nothing = cast("Any", SimpleNamespace(links=None))
    return {
        **RunMethods(nothing, nothing, nothing).methods(),
        **ThreadMethods(nothing, nothing).methods(),
        **BasicMethods("", float, nothing, {}).methods(),
    }


def event_schema(kind: str) -> Schema:
    """An event of this type as it is in a channel."""
    required = {
        name: {"type": [JSON_TYPES[one] for one in wanted]}
        if isinstance(wanted, tuple)
        else {"type": JSON_TYPES[wanted]}
        for name, wanted in events.REQUIRED[kind].items()
    }
    return members({"type": {"const": kind}, **required}, {**OPTIONAL.get(kind, {}), **STAMPS})


def _custom(name: str, row: Custom) -> Schema:
    return members(
        {"type": {"const": events.CUSTOM}, "name": {"const": name}, "value": row.value}, STAMPS, row.when
    )


def error_codes() -> dict[str, str]:
    """Codes in `error` of a reply, with their meaning: the protocol's, then those of RPC methods."""
    found = {str(one.code): one.message for one in vars(codes).values() if isinstance(one, codes.ReplyError)}
    for code, row in sorted(ERRORS.items(), key=lambda item: (item[1].http or 0, item[0])):
        if row.http is not None:
            number = str(row.http)
            found[number] = f"{found[number]}, {code}" if number in found else code
    return found


def close_codes() -> dict[str, dict[str, Any]]:
    """Close codes with their reasons, and whether an SDK comes back after them."""
    found: dict[int, list[str]] = {}
    for code, row in TABLE.items():
        if row.close is not None:
            found.setdefault(row.close, []).append(code)
    for one in (codes.NORMAL, codes.FORCE_RECONNECT, codes.FORCED):
        found.setdefault(one.code, []).append(one.reason.partition(":")[0] or "closed normally")
    return {
        str(code): {"reasons": reasons, "reconnect": code >= 3000 and not is_final(code)}
        for code, reasons in sorted(found.items())
    }


class _Document:
    """The document while it is made."""

    def __init__(self, examples: dict[str, Any]) -> None:
        self.components = Components()
        self.messages: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.channels: dict[str, dict[str, Any]] = {"websocket": {}, "thread": {}, "user": {}}
        self._examples = examples

    def message(self, channel: str, name: str, about: str, payload: Any) -> dict[str, str]:
        """Add a message; a reference to it within its channel."""
        found: dict[str, Any] = {
            "name": name,
            "summary": about,
            "contentType": "application/json",
            "payload": self.components.of(payload),
        }
        if name in self._examples:
            found["examples"] = [{"name": "recorded", "payload": self._examples[name]}]
        self.messages[name] = found
        self.channels[channel][name] = {"$ref": f"#/components/messages/{name}"}
        return {"$ref": f"#/channels/{channel}/messages/{name}"}

    def operation(self, name: str, action: str, channel: str, sent: list[Any], **more: Any) -> None:
        """Add an operation, from the gateway's point of view."""
        where = {"$ref": f"#/channels/{channel}"}
        if reply := more.pop("reply", None):
            more["reply"] = {"channel": where, "messages": reply}
        self.operations[name] = {"action": action, "channel": where, "messages": sent, **more}

    def commands(self) -> None:
        """Commands and what answers them."""
        error = self.message(
            "websocket", "error", "The command failed.", members({"id": INTEGER, "error": codes.ReplyError})
        )
        structs = {
            field.name: field.type for field in msgspec.structs.fields(commands.Command) if field.name != "id"
        }
        for name in SUMMARIES:
            kind = next(one for one in structs[name].__args__ if one is not type(None))
            required = {name: self.components.inline(kind)}
            numbered = {} if name == "send" else {"id": {"type": "integer", "minimum": 1}}
            optional = {} if numbered else {"id": {"type": "integer", "minimum": 0}}
            sent = self.message(
                "websocket", name, SUMMARIES[name], members({**numbered, **required}, optional)
            )
            reply: list[Any] = [error]
            if name in RESULTS:
                payload = members({"id": INTEGER, name: RESULTS[name]})
                reply.insert(0, self.message("websocket", f"{name}.reply", f"Answers `{name}`.", payload))
            answer = {} if name == "send" else {"reply": reply}
            self.operation(name, "receive", "websocket", [sent], summary=SUMMARIES[name], **answer)
        for name, method in methods().items():
            params = self.components.inline(method.params) if method.params else ANY
            needed = {"method": {"const": name}, **({"data": params} if params.get("required") else {})}
            rest = {} if "data" in needed else {"data": params}
            about = METHODS[name].summary
            body = members({"id": {"type": "integer", "minimum": 1}, "rpc": members(needed, rest)})
            result = members({"id": INTEGER, "rpc": members({"data": METHODS[name].result})})
            sent = self.message("websocket", f"rpc.{name}", about, body)
            answer_message = self.message("websocket", f"rpc.{name}.reply", f"Answers `{name}`.", result)
            self.operation(
                f"rpc.{name}", "receive", "websocket", [sent], summary=about, reply=[answer_message, error]
            )

    def pushes(self) -> None:
        """What the gateway sends without being asked, and the pong."""
        publication = self.components.inline(replies.PublicationView)
        body = members({"channel": STRING, "pub": publication})
        about = "A publication in a channel: `data` is an event of the channels below."
        sent = [self.message("websocket", "push.publication", about, members({"push": body}))]
        for name, (text, payload) in PUSHES.items():
            channel = {} if name == "disconnect" else {"channel": STRING}
            push = members({"push": members({**channel, name: payload})})
            sent.append(self.message("websocket", f"push.{name}", text, push))
        self.operation("push", "send", "websocket", sent, summary="Pushes.")
        empty = {"type": "object", "maxProperties": 0}
        ping = self.message("websocket", "server.ping", "An empty reply; answer it.", empty)
        pong = self.message("websocket", "client.pong", "An empty command: the answer to a ping.", empty)
        self.operation("heartbeat", "send", "websocket", [ping], summary="Pings.", reply=[pong])

    def events(self) -> None:
        """Publications of the two kinds of channels."""
        sent = []
        for kind in events.REQUIRED:
            about = f"AG-UI's {kind}." if kind != events.CUSTOM else "AG-UI's CUSTOM, of an agent."
            sent.append(self.message("thread", f"event.{kind}", about, event_schema(kind)))
        for name, row in EVENTS.items():
            sent.append(self.message("thread", f"event.{name}", row.when, _custom(name, row)))
        self.operation("publishToThread", "send", "thread", sent, summary="Messages, and events of runs.")
        told = [
            self.message("user", f"notice.{name}", row.when, _custom(name, row))
            for name, row in NOTICES.items()
        ]
        self.operation("notify", "send", "user", told, summary="Notices to every device of a user.")


def document() -> dict[str, Any]:
    """The whole document."""
    made = _Document(json.loads(EXAMPLES.read_text(encoding="utf-8")))
    made.commands()
    made.pushes()
    made.events()
    fallbacks = ", ".join(f"`{path}`" for path in (endpoints.HTTP_STREAM, endpoints.SSE, endpoints.EMULATION))
    aliases = ", ".join(f"`{path}`" for path in endpoints.WEBSOCKETS[1:])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "narthex: the wire",
            "version": __version__,
            "description": "The Centrifuge client protocol v2 in JSON; publications are AG-UI events. "
            "protocol.md explains it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "{host}",
                "protocol": "wss",
                "variables": {
                    "host": {"description": "The gateway's host and port.", "default": "chat.example.com"}
                },
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            }
        },
        "channels": {
            "websocket": {
                "address": endpoints.WEBSOCKET,
                "title": "WebSocket",
                "description": f"Also at {aliases}; the same commands travel over {fallbacks}. "
                "One frame holds one or more commands, replies or pushes, joined by newlines.",
                "messages": made.channels["websocket"],
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
                "x-error-codes": error_codes(),
                "x-close-codes": close_codes(),
            },
            "thread": {
                "address": "thread:{thread_id}",
                "title": "A thread",
                "description": "Each message is the `data` of a publication. Members subscribe to it.",
                "parameters": {"thread_id": {"description": "The thread's id."}},
                "messages": made.channels["thread"],
            },
            "user": {
                "address": "user:{user_id}",
                "title": "A user's own channel",
                "description": "Each message is the `data` of a publication. The gateway subscribes every connection "
                "of the user to it.",
                "parameters": {"user_id": {"description": "The user's id: the subject of the token."}},
                "messages": made.channels["user"],
            },
        },
        "operations": made.operations,
        "components": {
            "schemas": explained(made.components.found),
            "messages": explained(made.messages),
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "`Authorization`, a subprotocol, a cookie, a ticket, or `token` in `connect`: "
                    "authentication.md lists the carriers.",
                }
            },
        },
    }


def text() -> str:
    """The document as JSON text, as docs/asyncapi.json has it."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
