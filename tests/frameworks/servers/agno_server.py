"""Agno's official AG-UI interface: argv is the model's URL and the port."""

import sys

import uvicorn
from agno.agent import Agent
from agno.models.openai.like import OpenAILike
from agno.os import AgentOS
from agno.os.interfaces.agui import AGUI

model_url, port = sys.argv[1], int(sys.argv[2])


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


agent = Agent(
    model=OpenAILike(id="scripted", base_url=model_url, api_key="none"), tools=[get_weather], telemetry=False
)
app = AgentOS(agents=[agent], interfaces=[AGUI(agent=agent)], telemetry=False).get_app()
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
