"""Pydantic AI's own AG-UI endpoint: argv is the model's URL and the port."""

import sys

import uvicorn
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

model_url, port = sys.argv[1], int(sys.argv[2])
agent = Agent(OpenAIChatModel("scripted", provider=OpenAIProvider(base_url=model_url, api_key="none")))


@agent.tool_plain
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


async def endpoint(request: Request) -> Response:
    return await AGUIAdapter.dispatch_request(request, agent=agent, include_usage=True)


uvicorn.run(
    Starlette(routes=[Route("/agent", endpoint, methods=["POST"])]),
    host="127.0.0.1",
    port=port,
    log_level="warning",
)
