"""LlamaIndex's official AG-UI router: argv is the model's URL and the port."""

import sys

import uvicorn
from fastapi import FastAPI
from llama_index.core.workflow import Context
from llama_index.llms.openai import OpenAI
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


app = FastAPI()
llm = OpenAI(model="gpt-4o-mini", api_base=model_url, api_key="none")
app.include_router(get_ag_ui_workflow_router(llm=llm, backend_tools=[get_weather, add_item]))
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
