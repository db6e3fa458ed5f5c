"""Pydantic AI's own AG-UI endpoint: argv is the model's URL and the port."""

import sys

import uvicorn
from ag_ui.core import CustomEvent, StateDeltaEvent, StateSnapshotEvent
from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, RunContext, ToolReturn
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui import StateDeps
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

model_url, port = sys.argv[1], int(sys.argv[2])


class Shared(BaseModel):
    items: list[str] = []


agent = Agent(
    OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=model_url, api_key="none")),
    deps_type=StateDeps[Shared],
    output_type=[str, DeferredToolRequests],
)


@agent.tool_plain
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


@agent.tool
def add_item(ctx: RunContext[StateDeps[Shared]], item: str) -> ToolReturn:
    """Adds to the list."""
    ctx.deps.state.items.append(item)
    return ToolReturn(
        return_value="added", metadata=[StateSnapshotEvent(snapshot=ctx.deps.state.model_dump())]
    )


@agent.tool_plain
def do_steps() -> ToolReturn:
    """Works in steps."""
    done = [{"op": "replace", "path": "/steps/0", "value": "done"}]
    events = [StateSnapshotEvent(snapshot={"steps": ["pending"]}), StateDeltaEvent(delta=done)]
    return ToolReturn(return_value="done", metadata=events)


@agent.tool_plain
def write_document(document: str) -> ToolReturn:
    """Writes the document."""
    value = [{"state_key": "document", "tool": "write_document", "tool_argument": "document"}]
    return ToolReturn(return_value="written", metadata=[CustomEvent(name="PredictState", value=value)])


@agent.tool_plain(requires_approval=True)
def delete_all() -> str:
    """Deletes all."""
    return "deleted"


async def endpoint(request: Request) -> Response:
    return await AGUIAdapter.dispatch_request(
        request, agent=agent, deps=StateDeps(Shared()), include_usage=True
    )


uvicorn.run(
    Starlette(routes=[Route("/agent", endpoint, methods=["POST"])]),
    host="127.0.0.1",
    port=port,
    log_level="warning",
)
