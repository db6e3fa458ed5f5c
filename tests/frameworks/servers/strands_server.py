"""Strands' official AG-UI server (ag-ui-strands): argv is the model's URL and the port."""

import sys

import uvicorn
from ag_ui_strands import StrandsAgent, create_strands_app
from strands import Agent, tool
from strands.models.openai import OpenAIModel

model_url, port = sys.argv[1], int(sys.argv[2])


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


model = OpenAIModel(client_args={"base_url": model_url, "api_key": "none"}, model_id="scripted")
agent = StrandsAgent(Agent(model=model, tools=[get_weather], callback_handler=None), name="demo")
uvicorn.run(create_strands_app(agent, "/agent"), host="127.0.0.1", port=port, log_level="warning")
