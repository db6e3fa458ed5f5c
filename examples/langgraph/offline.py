"""A scripted chat model in the place of a real one: it calls a tool, then repeats the tool's words, streamed."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class OfflineModel(BaseChatModel):
    """LangChain's interface of a chat model."""

    @property
    def _llm_type(self) -> str:
        return "offline"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=answer(messages))])

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        whole = answer(messages)
        for call in whole.tool_calls:  # its name first, then its arguments
            begun = {"name": call["name"], "args": "", "id": call["id"], "index": 0}
            for piece in (begun, begun | {"name": None, "args": json.dumps(call["args"])}):
                yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
        if whole.tool_calls:
            return
        for word in str(whole.content).split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word + " "))


def answer(messages: list[BaseMessage]) -> AIMessage:
    """The next step after the last message: a tool call, or words."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(content=str(last.content))
    city = re.search(r"to ([A-Z]\w+)", str(last.content))
    if city is None:
        return AIMessage(content="Where to?")
    name = "book" if "book" in str(last.content).lower() else "next_train"
    call = {"name": name, "args": {"city": city[1]}, "id": f"call_{len(messages):04}_{name}_{city[1]}"}
    return AIMessage(content="", tool_calls=[call])


offline_model = OfflineModel()
