"""Strands' official AG-UI server (ag-ui-strands): argv is the model's URL and the port."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from ag_ui.core import EventType, StateDeltaEvent, StateSnapshotEvent
from ag_ui_strands import StrandsAgent, create_strands_app
from ag_ui_strands.config import (
    PredictStateMapping,
    StrandsAgentConfig,
    ToolBehavior,
    ToolCallContext,
    ToolResultContext,
)
from strands import Agent, tool
from strands.models.openai import OpenAIModel

model_url, port = sys.argv[1], int(sys.argv[2])


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


@tool
def add_item(item: str) -> str:
    """Adds to the list."""
    return "added"


@tool
def write_document(document: str) -> str:
    """Writes the document."""
    return "written"


@tool
def delete_all() -> str:
    """Deletes all."""
    return "deleted"


@tool
def do_steps() -> str:
    """Works in steps."""
    return "done"


async def stepped(_: ToolResultContext) -> AsyncIterator[Any]:
    steps = [{"text": "pack", "status": "pending"}, {"text": "go", "status": "pending"}]
    yield StateSnapshotEvent(type=EventType.STATE_SNAPSHOT, snapshot={"steps": steps})
    for number in range(len(steps)):
        await asyncio.sleep(0.01)
        done = {"op": "replace", "path": f"/steps/{number}/status", "value": "done"}
        yield StateDeltaEvent(type=EventType.STATE_DELTA, delta=[done])


def listed(call: ToolCallContext) -> dict[str, Any]:
    state = call.input_data.state if isinstance(call.input_data.state, dict) else {}
    return {**state, "items": [*state.get("items", []), call.tool_input["item"]]}


config = StrandsAgentConfig(
    tool_behaviors={
        "add_item": ToolBehavior(state_from_args=listed),
        "write_document": ToolBehavior(
            predict_state=[PredictStateMapping("document", "write_document", "document")]
        ),
        "delete_all": ToolBehavior(interrupt_on_call=True),
        "do_steps": ToolBehavior(custom_result_handler=stepped),
    }
)
tools = [get_weather, add_item, write_document, delete_all, do_steps]
model = OpenAIModel(client_args={"base_url": model_url, "api_key": "none"}, model_id="scripted")
agent = StrandsAgent(
    Agent(model=model, tools=tools, callback_handler=None),
    name="demo",
    config=config,
)
uvicorn.run(create_strands_app(agent, "/agent"), host="127.0.0.1", port=port, log_level="warning")
