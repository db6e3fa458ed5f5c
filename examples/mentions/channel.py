"""Two agents for a channel of people: one that says nothing, and one that answers where a message mentions it."""

from collections import Counter
from collections.abc import AsyncIterator

import narthex


@narthex.agent(description="Messages between people. It says nothing")
def channel(_: narthex.RunInput) -> str:
    """The default agent: it takes every message that mentions none."""
    return ""


@narthex.agent(description="Answers where a message mentions it", suggestions=["@helper who wrote here?"])
async def helper(run: narthex.RunInput) -> AsyncIterator[str]:
    """It has the whole conversation, also what people wrote to each other."""
    question = run.messages[-1]
    wrote = Counter(message.name for message in run.messages if message.role == "user")
    yield f"{question.name}, these people wrote here: "
    yield ", ".join(f"{name} ({count})" for name, count in sorted(wrote.items())) + "."
