"""The Python client of a narthex gateway: connects, reports the reason of a refusal, follows runs and verifies them.

Not here: the gateway. This package imports only its digest, its rule for joined deltas and its error tree, and works
with any gateway of the same protocol. `connect` needs the extra `client`
(`pip install "narthex[client]"`); `RunAssembler` needs nothing.

    async with narthex.client.connect("wss://chat.example/ws", get_token=fetch) as gateway:
        run = await gateway.start_run("hello")
        async for event in run:
            ...
        assert run.proof.complete
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from narthex.client.assembler import Proof, Pushed, RunAssembler
from narthex.client.events import AguiEvent, Interrupt
from narthex.client.refusals import Refused, SignedOut, Unreachable
from narthex.client.run import Run, RunIncomplete
from narthex.client.threads import Invitation, LinkedThread, Many, OpenLink, ThreadLink
from narthex.errors import ClientError, ConfigError

if TYPE_CHECKING:
    from narthex.client.gateway import Gateway

__all__ = [
    "AguiEvent",
    "ClientError",
    "Gateway",
    "Interrupt",
    "Invitation",
    "LinkedThread",
    "Many",
    "OpenLink",
    "Proof",
    "Pushed",
    "Refused",
    "Run",
    "RunAssembler",
    "RunIncomplete",
    "SignedOut",
    "ThreadLink",
    "Unreachable",
    "connect",
]


def connect(
    url: str,
    *,
    get_token: Callable[[], str | Awaitable[str | None] | None] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
    connect_timeout_s: float = 30.0,
    on_notice: Callable[[Mapping[str, Any]], None] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    use_proxy: bool = True,
) -> Gateway:
    """A connection to use with `async with`; it sends nothing before that.

    Args:
        url: of the WebSocket endpoint: `ws://…/ws`, `wss://…/ws`.
        get_token: returns a fresh token for each attempt and each refresh, plain or awaited. It raises `SignedOut`
            when no user is signed in.
        headers: more headers for the handshake and for preflight, such as `X-E2E-Bypass-Key`.
        timeout_s: for each command, each token and each preflight.
        connect_timeout_s: the longest total time of a first connect, or of a call during an outage.
        on_notice: called with each event on the user's own channel; must not raise.
        ssl_context: for `wss`, where the default is not enough.
        use_proxy: whether the proxy variables of the environment count.

    Raises:
        ConfigError: centrifuge-python is not installed.
    """
    try:
        from narthex.client.gateway import Gateway
    except ModuleNotFoundError as fault:
        if fault.name != "centrifuge":
            raise
        problem = 'narthex.client.connect needs centrifuge-python. Install it: pip install "narthex[client]".'
        raise ConfigError([problem]) from fault
    return Gateway(
        url,
        get_token=get_token,
        headers=headers,
        timeout_s=timeout_s,
        connect_timeout_s=connect_timeout_s,
        on_notice=on_notice,
        ssl_context=ssl_context,
        use_proxy=use_proxy,
    )


def __getattr__(name: str) -> Any:
    """`Gateway`, on first use: it needs the extra, which `RunAssembler` does not (PEP 562)."""
    if name != "Gateway":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from narthex.client.gateway import Gateway

    return Gateway
