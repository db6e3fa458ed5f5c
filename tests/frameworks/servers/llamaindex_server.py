"""LlamaIndex's official AG-UI router: argv is the model's URL and the port."""

import asyncio
import sys

import uvicorn
from fastapi import FastAPI
from llama_index.core.workflow import Context
from llama_index.llms.openai import OpenAI
from llama_index.protocols.ag_ui.events import StateDeltaWorkflowEvent, StateSnapshotWorkflowEvent
from llama_index.protocols.ag_ui.router import get_ag_ui_workflow_router

model_url, port = sys.argv[1], int(sys.argv[2])


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


async def add_item(ctx: Context, item: str) -> str:
    """Adds to the list."""
    state = await ctx.store.get("state", default={})
    await ctx.store.set("state", {**state, "items": [*state.get("items", []), item]})
    return "added"


async def do_steps(ctx: Context) -> str:
    """Works in steps."""
    steps = [{"text": "pack", "status": "pending"}, {"text": "go", "status": "pending"}]
    ctx.write_event_to_stream(StateSnapshotWorkflowEvent(snapshot={"steps": steps}))
    for number in range(len(steps)):
        await asyncio.sleep(0.01)
        done = {"op": "replace", "path": f"/steps/{number}/status", "value": "done"}
        ctx.write_event_to_stream(StateDeltaWorkflowEvent(delta=[done]))
    return "done"


app = FastAPI()
llm = OpenAI(model="gpt-4o-mini", api_base=model_url, api_key="none")
app.include_router(get_ag_ui_workflow_router(llm=llm, backend_tools=[get_weather, add_item, do_steps]))
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
