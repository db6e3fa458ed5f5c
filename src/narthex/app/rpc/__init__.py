"""RPC methods of docs/design.md#the-wire: their params, their rights, their results."""

from __future__ import annotations

from narthex.app.rpc.agui import AguiMethods
from narthex.app.rpc.basics import BasicMethods
from narthex.app.rpc.methods import Method
from narthex.app.rpc.runs import RunMethods
from narthex.app.rpc.threads import ThreadMethods

__all__ = ["AguiMethods", "BasicMethods", "Method", "RunMethods", "ThreadMethods"]
