"""Reading a request's body within a bound, before any of it is parsed.

The time that it may take is the edge's to bound (`EdgeLimits.body_s`); a client that leaves on the way is
`ClientDisconnect`, which `problems` knows to be no bug.
"""

from __future__ import annotations

from starlette.requests import Request


async def bounded_body(request: Request, max_bytes: int) -> bytes | None:
    """The whole body, or None as soon as it is larger than `max_bytes`."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > max_bytes:
            return None
    return bytes(found)
