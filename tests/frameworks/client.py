"""A stock AG-UI client's memory of a thread: the messages and the state that it sends with its next request."""

from __future__ import annotations

import json
import uuid
from typing import Any

from narthex.domain.json_patch import applied

Event = dict[str, Any]
Message = dict[str, Any]


class Device:
    """One thread as a client knows it."""

    def __init__(self, name: str) -> None:
        self.thread_id = f"{name}-{uuid.uuid4()}"
        self.messages: list[Message] = []
        self.state: Any = {}
        self.interrupts: list[Event] = []

    def asks(self, tools: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The next RunAgentInput."""
        sent = {"threadId": self.thread_id, "runId": str(uuid.uuid4()), "state": self.state}
        return sent | {"messages": self.messages, "tools": tools, "context": [], "forwardedProps": {}} | more

    def says(self, text: str) -> None:
        """The user's next message."""
        self.messages.append({"id": str(uuid.uuid4()), "role": "user", "content": text})

    def returns(self, content: str) -> None:
        """The result of the client's own tool that the agent called last."""
        call = next(call for message in reversed(self.messages) for call in message.get("toolCalls", []))
        result = {"role": "tool", "toolCallId": call["id"], "content": content}
        self.messages.append({"id": str(uuid.uuid4())} | result)

    def hears(self, events: list[Event]) -> None:
        """What `@ag-ui/client` keeps of a run."""
        calls: dict[str, dict[str, Any]] = {}
        texts: dict[str, Message] = {}
        self.interrupts = []
        for event in events:
            match event["type"]:
                case "TEXT_MESSAGE_START":
                    texts[event["messageId"]] = self._message(event["messageId"]) | {"content": ""}
                    self._put(texts[event["messageId"]])
                case "TEXT_MESSAGE_CONTENT":
                    texts[event["messageId"]]["content"] += event["delta"]
                case "TOOL_CALL_START":
                    function = {"name": event["toolCallName"], "arguments": ""}
                    calls[event["toolCallId"]] = function
                    parent = self._message(event.get("parentMessageId") or event["toolCallId"])
                    made = {"id": event["toolCallId"], "type": "function", "function": function}
                    parent["toolCalls"] = [*parent.get("toolCalls", []), made]
                    self._put(parent)
                case "TOOL_CALL_ARGS":
                    calls[event["toolCallId"]]["arguments"] += event["delta"]
                case "TOOL_CALL_RESULT":
                    result = {"id": event["messageId"], "role": "tool", "toolCallId": event["toolCallId"]}
                    self._put(result | {"content": event["content"]})
                case "MESSAGES_SNAPSHOT":
                    self.messages = json.loads(json.dumps(event["messages"]))
                case "STATE_SNAPSHOT":
                    self.state = event["snapshot"]
                case "STATE_DELTA":
                    self.state = applied(self.state, event["delta"])
                case "RUN_FINISHED":
                    self.interrupts = (event.get("outcome") or {}).get("interrupts", [])

    def _message(self, name: str) -> Message:
        found = next((one for one in self.messages if one["id"] == name), None)
        return found if found is not None else {"id": name, "role": "assistant"}

    def _put(self, message: Message) -> None:
        if all(one is not message for one in self.messages):
            self.messages = [one for one in self.messages if one["id"] != message["id"]] + [message]
