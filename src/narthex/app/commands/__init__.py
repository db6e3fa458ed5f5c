"""What each command of the Centrifuge protocol does. One handler a command; `HANDLERS` is the whole table."""

from __future__ import annotations

from typing import Final

from narthex.app.commands import channels, connecting, rpc, subscribing
from narthex.app.connection import Handler

HANDLERS: Final[dict[str, Handler]] = {
    "connect": connecting.connect,
    "refresh": connecting.refresh,
    "sub_refresh": channels.sub_refresh,
    "subscribe": subscribing.subscribe,
    "unsubscribe": subscribing.unsubscribe,
    "publish": channels.publish,
    "presence": channels.presence,
    "presence_stats": channels.presence_stats,
    "history": channels.history,
    "rpc": rpc.rpc,
    "send": channels.send,
    "ping": channels.ping,
}
