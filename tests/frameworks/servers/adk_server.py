"""ADK's official AG-UI middleware (ag_ui_adk), with a scripted model in the process; argv is a URL and the port."""

import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from ag_ui_adk import ADKAgent, PredictStateMapping, add_adk_fastapi_endpoint
from fastapi import FastAPI
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.tools import FunctionTool, ToolContext
from google.genai import types

model_url, port = sys.argv[1], int(sys.argv[2])


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "weather": ("get_weather", {"city": "Oslo"}),
    "background": ("change_background", {"colour": "red"}),
    "plan": ("approve_plan", {"steps": ["pack", "go"]}),
    "haiku": ("show_haiku", {"lines": ["snow", "falls", "on Oslo"]}),
    "milk": ("add_item", {"item": "milk"}),
    "work": ("do_steps", {}),
    "delete": ("delete_all", {}),
    "write": ("write_document", {"document": "Once upon a time there was snow."}),
}


class Scripted(BaseLlm):
    """The same script as the others' model: calls the tool for `weather`, else talks."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        last = llm_request.contents[-1].parts[-1]
        declared = [
            one.name for tool in llm_request.config.tools or [] for one in (tool.function_declarations or [])
        ]
        usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=7, candidates_token_count=3)
        call: Any = None
        name, arguments = CALLS.get(last.text or "", ("", {}))
        if name in declared:
            call = types.FunctionCall(name=name, args=arguments)
        if call is not None:
            content = types.Content(role="model", parts=[types.Part(function_call=call)])
            yield LlmResponse(content=content, usage_metadata=usage)
            return
        words = ["Hello ", "there ", "friend."] if last.text else ["It ", "snows."]
        for word in words:
            content = types.Content(role="model", parts=[types.Part(text=word)])
            yield LlmResponse(content=content, partial=True)
        content = types.Content(role="model", parts=[types.Part(text="".join(words))])
        yield LlmResponse(content=content, usage_metadata=usage)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"snow in {city}"


def add_item(item: str, tool_context: ToolContext) -> str:
    """Adds to the list."""
    tool_context.state["items"] = [*tool_context.state.get("items", []), item]
    return "added"


def write_document(document: str) -> str:
    """Writes the document."""
    return "written"


async def do_steps(tool_context: ToolContext) -> str:
    """Works in steps."""
    tool_context.state["steps"] = [{"text": "pack", "status": "done"}, {"text": "go", "status": "done"}]
    return "done"


def delete_all() -> str:
    """Deletes all."""
    return "deleted"


tools: list[Any] = [get_weather, add_item, write_document, do_steps]
tools.append(FunctionTool(delete_all, require_confirmation=True))
try:
    from ag_ui_adk import AGUIToolset

    tools.append(AGUIToolset())
except ImportError:
    pass
agent = LlmAgent(name="demo", model=Scripted(model="scripted"), tools=tools)
adk = ADKAgent(
    adk_agent=agent,
    app_name="demo",
    user_id="user",
    use_in_memory_services=True,
    emit_interrupt_outcome=True,
    predict_state=[
        PredictStateMapping(
            state_key="document", tool="write_document", tool_argument="document", emit_confirm_tool=False
        )
    ],
)
app = FastAPI()
add_adk_fastapi_endpoint(app, adk, path="/agent")
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
