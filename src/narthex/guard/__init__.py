"""Admission around a WebSocket endpoint that exists already.

`Guard` is an ASGI middleware; `identity` and `current_identity` give its user to handlers.
"""

from narthex.guard.asgi import Guard
from narthex.guard.users import current_identity, identity

__all__ = ["Guard", "current_identity", "identity"]
