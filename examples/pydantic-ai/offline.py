"""A scripted model in the place of a real one, so that the example runs without a network and without a key.

It does what a real model does with these tools: it calls one, reads the result, and streams an answer.
"""

import json
import re
from collections.abc import AsyncIterator

from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel


async def respond(
    messages: list[ModelMessage], _info: AgentInfo
) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The next step after the last message: a tool call, or words."""
    last = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart | UserPromptPart)][-1]
    if isinstance(last, ToolReturnPart):
        for word in str(last.content).split(" "):
            yield word + " "
        return
    number = re.search(r"\d+", str(last.content))
    if number is None:
        yield "Which order is it about? Tell me its number."
        return
    tool = "refund" if "refund" in str(last.content).lower() else "order_status"
    yield {0: DeltaToolCall(name=tool, json_args=json.dumps({"number": int(number[0])}))}


offline_model = FunctionModel(stream_function=respond)
