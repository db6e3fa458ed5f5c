"""LangGraph's official AG-UI endpoint (ag-ui-langgraph): argv is the model's URL and the port."""

import sys
from typing import Annotated, Any

import uvicorn
from ag_ui_langgraph import LangGraphAgent, add_langgraph_fastapi_endpoint
from fastapi import FastAPI
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt
from typing_extensions import TypedDict

model_url, port = sys.argv[1], int(sys.argv[2])


class State(TypedDict):
    messages: Annotated[list, add_messages]
    tools: list
    count: int


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


@tool
def write_document(document: str) -> str:
    """Writes the document."""
    return "written"


PREDICTED = [{"state_key": "document", "tool": "write_document", "tool_argument": "document"}]


def named(tools: list[Any]) -> list[Any]:
    return [{"type": "function", "function": one} if "function" not in one else one for one in tools]


async def chat(state: State, config: RunnableConfig) -> dict[str, Any]:
    text = state["messages"][-1].content
    if text == "delete":
        answer = interrupt({"question": "Delete all?"})
        return {"messages": [("assistant", f"You said {answer}.")], "count": 5}
    if text == "work":
        for number in (1, 2):
            await adispatch_custom_event("manually_emit_state", {"steps": number}, config=config)
    if text == "write":
        config = {**config, "metadata": {**config.get("metadata", {}), "predict_state": PREDICTED}}
    model = ChatOpenAI(
        model="scripted", base_url=model_url, api_key="none", streaming=True, stream_usage=True
    )
    bound = model.bind_tools([get_weather, write_document, *named(state.get("tools") or [])])
    answer = await bound.ainvoke(state["messages"], config)
    return {"messages": [answer], "count": (state.get("count") or 0) + 1}


async def research(state: State) -> dict[str, Any]:
    return {"messages": [("assistant", "Found in the sub-graph.")]}


def first(state: State) -> str:
    return "research" if state["messages"][-1].content == "research" else "chat"


def route(state: State) -> str:
    calls = getattr(state["messages"][-1], "tool_calls", None) or []
    return "tools" if any(call["name"] in {"get_weather", "write_document"} for call in calls) else END


graph = StateGraph(State)
graph.add_node("chat", chat)
graph.add_node("tools", ToolNode([get_weather, write_document]))
researcher = StateGraph(State)
researcher.add_node("find", research)
researcher.add_edge(START, "find")
graph.add_node("research", researcher.compile())
graph.add_conditional_edges(START, first, ["research", "chat"])
graph.add_edge("research", END)
graph.add_conditional_edges("chat", route, ["tools", END])
graph.add_edge("tools", "chat")
app = FastAPI()
for path, outcome in (("/agent", True), ("/legacy", False)):  # both of its forms of an interrupt
    agent = LangGraphAgent(
        name="demo",
        graph=graph.compile(checkpointer=MemorySaver()),
        enable_legacy_on_interrupt_event=not outcome,
        emit_interrupt_outcome=outcome,
    )
    add_langgraph_fastapi_endpoint(app, agent, path)
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
