"""A LangGraph graph behind its official AG-UI endpoint: it looks a train up, and asks before it books."""

import os
from typing import Any

import uvicorn
from ag_ui_langgraph import LangGraphAgent, add_langgraph_fastapi_endpoint
from fastapi import FastAPI
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from offline import offline_model

TRAINS = {"Oslo": "IC 41 at 9:05", "Bergen": "R 7 at 11:40"}


@tool
def next_train(city: str) -> str:
    """The next train to a city."""
    return f"The next train to {city} is {TRAINS[city]}." if city in TRAINS else f"No train goes to {city}."


@tool
def book(city: str) -> str:
    """Book the next train to a city."""
    answer = interrupt({"message": f"Book {TRAINS.get(city, 'a train')} to {city}?"})
    return f"Booked: {TRAINS.get(city)} to {city}." if answer.get("approved") else "Nothing is booked."


def model() -> Any:
    """A real model when `MODEL` names one (`openai:gpt-5-mini`), else a script that needs no key."""
    if "MODEL" not in os.environ:
        return offline_model
    from langchain.chat_models import init_chat_model

    return init_chat_model(os.environ["MODEL"]).bind_tools([next_train, book])


async def chat(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    """One step of the model."""
    return {"messages": [await model().ainvoke(state["messages"], config)]}


def after_chat(state: MessagesState) -> str:
    """To the tools that the model called, or to the end."""
    last = state["messages"][-1]
    return "tools" if isinstance(last, AIMessage) and last.tool_calls else END


graph = StateGraph(MessagesState)
graph.add_node("chat", chat)
graph.add_node("tools", ToolNode([next_train, book]))
graph.add_edge(START, "chat")
graph.add_conditional_edges("chat", after_chat, ["tools", END])
graph.add_edge("tools", "chat")

app = FastAPI()
agent = LangGraphAgent(
    name="trips",
    graph=graph.compile(
        checkpointer=InMemorySaver()
    ),  # in production PostgresSaver: the questions outlive a restart
    emit_interrupt_outcome=True,  # so that narthex shows `interrupt` as a question
    emit_raw_events=False,
)
add_langgraph_fastapi_endpoint(app, agent, "/trips")

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=9010)
