"""The agent of this example: it asks before it refunds."""

import re
from collections.abc import AsyncIterator

import narthex


@narthex.agent(description="Refunds, after asking", suggestions=["Refund 12 euros"])
async def refunds(run: narthex.RunInput) -> AsyncIterator[str]:
    """Ask every member of the thread; the first answer counts."""
    amount = re.search(r"\d+", run.messages[-1].content)
    if amount is None:
        yield "How much? Write for example: refund 12 euros."
        return
    properties = {"approved": {"type": "boolean"}, "by": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["approved"]}
    answer = await run.ask(schema, f"Refund {amount[0]} euros?", answerable_by="member")
    verb = "Refunded" if answer["approved"] else "I have not refunded"
    yield f"{verb} {amount[0]} euros."
