"""`agui.*`: AG-UI's requests over the WebSocket, for clients that know a thread and a run by names of their own.

Not here: acting on them (`app/agui`). Rules: the events themselves come on the thread's channel, from the position in
the reply on; the client puts its names into them, as `app/agui/names.py` does for streams over HTTP.
"""

from __future__ import annotations

import msgspec

from narthex.app.agui.connected import Connected
from narthex.app.agui.requests import AguiRequests, FollowedRun
from narthex.app.agui.run_input import parse
from narthex.app.rpc.methods import Method, typed
from narthex.app.runs.engine import RunEngine
from narthex.domain.channels import thread_channel
from narthex.domain.identity import Identity
from narthex.domain.ids import Ident, Identified


class Request(Identified, frozen=True, kw_only=True):
    """Params of `agui.run` and `agui.connect`; `input` is AG-UI's RunAgentInput."""

    agent: Ident
    input: msgspec.Raw


class Named(Identified, frozen=True, kw_only=True):
    """Params of `agui.cancel`, `agui.names` and `agui.before`: a run by the gateway's id; the first two take the
    client's name for it too.
    """

    run_id: Ident


class AguiMethods:
    """See the module."""

    def __init__(self, requests: AguiRequests, engine: RunEngine) -> None:
        self._requests = requests
        self._engine = engine

    def methods(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "agui.run": typed(Request, self._run),
            "agui.connect": typed(Request, self._connect),
            "agui.cancel": typed(Named, lambda who, p: self._requests.cancel(who, p.run_id)),
            "agui.names": typed(Named, self._names),
            "agui.before": typed(Named, self._before),
        }

    async def _run(self, identity: Identity, params: Request) -> object:
        agent = self._engine.choose(params.agent, "").name
        followed = await self._requests.run(identity, parse(bytes(params.input)), agent)
        return _followed(followed)

    async def _connect(self, identity: Identity, params: Request) -> object:
        agent = self._engine.choose(params.agent, "").name
        asked = parse(bytes(params.input), connect=True)
        return _connected(await self._requests.connect(identity, asked, agent, preamble=True))

    async def _names(self, identity: Identity, params: Named) -> object:
        run = await self._requests.named(identity, params.run_id)
        found = await self._requests.names(run.tenant, run.thread_id, run.run_id, run.parent_run_id)
        return {"run_id": found.run_id, "parent_run_id": found.parent_run_id}

    async def _before(self, identity: Identity, params: Named) -> object:
        return {"events": await self._requests.before(identity, params.run_id)}


def _followed(followed: FollowedRun) -> dict[str, object]:
    run = followed.run
    return {
        "thread_id": run.thread_id,
        "run_id": run.run_id,
        "parent_run_id": followed.names.parent_run_id,
        "channel": thread_channel(run.thread_id),
        "offset": followed.since.offset,
        "epoch": followed.since.epoch,
    }


def _connected(thread: Connected) -> dict[str, object]:
    return {
        "thread_id": thread.real_id,
        "channel": thread_channel(thread.real_id) if thread.real_id else "",
        "offset": thread.at.offset,
        "epoch": thread.at.epoch,
        "events": thread.opening(),
        "ended": sorted(thread.whole_runs),
    }
