"""A support agent in Pydantic AI: one tool that reads, and one that a person must approve."""

import os

from offline import offline_model
from pydantic_ai import Agent, DeferredToolRequests, RunContext

from narthex import AgentUser

ORDERS = {7: "a green teapot, on its way", 8: "two cups, delivered"}

agent = Agent(
    os.environ.get("MODEL") or offline_model,  # MODEL=openai:gpt-5-mini, or any other that Pydantic AI knows
    name="support",
    deps_type=AgentUser,  # narthex gives the user who asks as the dependencies
    output_type=[str, DeferredToolRequests],  # the second: a tool waits for an approval
    instructions="You answer questions about orders and refund them. Answer in one sentence.",
)


@agent.tool_plain
def order_status(number: int) -> str:
    """What an order is and where it is."""
    return f"Order {number} is {ORDERS[number]}." if number in ORDERS else f"There is no order {number}."


@agent.tool(requires_approval=True)
def refund(context: RunContext[AgentUser], number: int) -> str:
    """Refund an order. narthex asks the user before this runs."""
    return f"Order {number} is refunded to {context.deps.name}."
