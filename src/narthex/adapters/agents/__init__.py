"""Ways to an agent: built in, Python, Pydantic AI, AG-UI over HTTP, OpenAI-compatible."""
