"""ADK's official AG-UI middleware (ag_ui_adk), with a scripted model in the process; argv is a URL and the port."""

import sys
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from ag_ui_adk import ADKAgent, add_adk_fastapi_endpoint
from fastapi import FastAPI
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.genai import types

model_url, port = sys.argv[1], int(sys.argv[2])


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
        if last.text == "weather" and "get_weather" in declared:
            call = types.FunctionCall(name="get_weather", args={"city": "Oslo"})
        if last.text == "background" and "change_background" in declared:
            call = types.FunctionCall(name="change_background", args={"colour": "red"})
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


tools: list[Any] = [get_weather]
try:
    from ag_ui_adk import AGUIToolset

    tools.append(AGUIToolset())
except ImportError:
    pass
agent = LlmAgent(name="demo", model=Scripted(model="scripted"), tools=tools)
adk = ADKAgent(adk_agent=agent, app_name="demo", user_id="user", use_in_memory_services=True)
app = FastAPI()
add_adk_fastapi_endpoint(app, adk, path="/agent")
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
