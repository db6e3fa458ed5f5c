"""Handlers of the Centrifuge protocol's commands. One handler a command; `handlers` is the whole table.

Not here: decoding commands (`protocol`), their order and deadlines (`app/connection`, `app/command_order`).
"""

from __future__ import annotations

from narthex.app.commands.channels import ChannelCommands, ping, sub_refresh
from narthex.app.commands.connecting import ConnectCommands
from narthex.app.commands.rpc import RpcCommand
from narthex.app.commands.subscribing import Subscriptions
from narthex.app.connection import Handler


def handlers(
    connecting: ConnectCommands, subscriptions: Subscriptions, channels: ChannelCommands, rpc: RpcCommand
) -> dict[str, Handler]:
    """The handlers by command name."""
    return {
        "connect": connecting.connect,
        "refresh": connecting.refresh,
        "sub_refresh": sub_refresh,
        "subscribe": subscriptions.subscribe,
        "unsubscribe": subscriptions.unsubscribe,
        "publish": channels.publish,
        "presence": channels.presence,
        "presence_stats": channels.presence_stats,
        "history": channels.history,
        "rpc": rpc.rpc,
        "send": channels.send,
        "ping": ping,
    }
