"""Agno's official AG-UI interface: argv is the model's URL and the port."""

import sys

import uvicorn
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.openai.like import OpenAILike
from agno.os import AgentOS
from agno.os.interfaces.agui import AGUI
from agno.run.base import RunContext

model_url, port = sys.argv[1], int(sys.argv[2])


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


def add_item(run_context: RunContext, item: str) -> str:
    """Adds to the list."""
    run_context.session_state["items"] = [*run_context.session_state.get("items", []), item]
    return "added"


def do_steps(run_context: RunContext) -> str:
    """Works in steps."""
    run_context.session_state["steps"] = [{"text": "pack", "status": "done"}]
    return "done"


agent = Agent(
    model=OpenAILike(id="scripted", base_url=model_url, api_key="none"),
    tools=[get_weather, add_item, do_steps],
    db=InMemoryDb(),
    session_state={"items": []},
    telemetry=False,
)
app = AgentOS(agents=[agent], interfaces=[AGUI(agent=agent)], telemetry=False).get_app()
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
