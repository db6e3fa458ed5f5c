"""The agent of this example."""

from collections.abc import AsyncIterator

import narthex


@narthex.agent(description="Greets, and counts the messages of a channel")
async def greeter(run: narthex.RunInput) -> AsyncIterator[str]:
    """The bridge writes `author: text`; the thread holds the whole channel."""
    author, _, text = run.messages[-1].content.partition(": ")
    written = sum(message.role == "user" for message in run.messages)
    yield f"Hello {author}, "
    yield f"you wrote {len(text)} characters. This is message {written} here."
