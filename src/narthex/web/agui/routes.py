"""Serves the routes of AG-UI over HTTP: finds the caller, and the answer's status.

Not here: the thread and the run (`app/agui`), the stream of events (`stream`). Rules: the upgrade's handler admits each
stream, which takes a slot like a WebSocket; a repeat with `Last-Event-ID` continues where the stream broke; a client
that leaves does not cancel its run, unless it asked for that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.agui.connected import Connected
from narthex.app.agui.history import (
    EMPTY_THREAD,
    MAX_MESSAGES,
    active_run,
    ended_run,
    interrupts,
    message_runs,
    messages,
)
from narthex.app.agui.names import ClientNames
from narthex.app.agui.requests import FollowedRun
from narthex.app.agui.run_input import Asked, RequestEnvelope, opened, parse, stopped_run
from narthex.app.connection import COMMAND_TIMEOUT_S, Connection
from narthex.app.core import NodeCore
from narthex.domain import endpoints
from narthex.domain.channels import thread_channel
from narthex.domain.events import Event
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.refusals import TABLE, Refusal
from narthex.errors import ClientError, DependencyError
from narthex.ports.edge import Decision, Deny, UpgradeHandler
from narthex.ports.later import settled
from narthex.ports.tracing import ending, within
from narthex.protocol.replies import encode_json
from narthex.web.agui.capabilities import capabilities
from narthex.web.agui.stream import Ended, RunStream, event_id, position_of
from narthex.web.agui.thread_stream import ThreadEvents, thread_blocks
from narthex.web.fallbacks import StreamedAnswer
from narthex.web.fields import bounded_body, moment_and_id
from narthex.web.paths import root_path
from narthex.web.problems import client_error, problem
from narthex.web.request_rules import RequestAuthenticator, abort_of, head_of

MAX_BODY: Final = 1024 * 1024  # stock clients send the whole conversation each time
_ADMITTED_AS: Final = endpoints.SSE  # the upgrade handler's name for a stream of server-sent events
_NOT_NOW: Final = Refusal(code="overloaded", retry_after_s=1)


Work = Callable[[Connection, Identity], Awaitable[FollowedRun | Connected]]


class AguiRoutes:
    """See the module.

    Args:
        upgrade_handler: admits clients.
        http: CORS, and the caller of the list of agents.
        core: chat, runs and their log.
    """

    def __init__(
        self,
        upgrade_handler: UpgradeHandler,
        http: RequestAuthenticator,
        core: NodeCore,
    ) -> None:
        self._upgrade_handler = upgrade_handler
        self._http = http
        self._requests = core.agui
        self._engine = core.engine
        self._store = core.store
        self._tasks = core.tasks

    def routes(self) -> list[BaseRoute]:
        """Starlette routes."""
        return [
            Route("/agui", self._agents, methods=["GET"]),
            *self._copilotkit(),
            Route("/agui/{agent}", self._one, methods=["GET"]),
            Route("/agui/{agent}", self._post, methods=["POST"]),
            Route("/agui/{agent}", self._preflight, methods=["OPTIONS"]),
            Route("/agui/{agent}/connect", self._connect, methods=["POST"]),
            Route("/agui/{agent}/connect", self._preflight, methods=["OPTIONS"]),
            Route("/agui/{agent}/threads/{thread_id}", self._history, methods=["GET"]),
            Route("/agui/{agent}/threads/{thread_id}", self._preflight, methods=["OPTIONS"]),
            Route("/agui/{agent}/runs/{run_id}", self._follow, methods=["GET"]),
            Route("/agui/{agent}/runs/{run_id}", self._preflight, methods=["OPTIONS"]),
            Route("/agui/{agent}/runs/{run_id}/cancel", self._cancel, methods=["POST"]),
            Route("/agui/{agent}/runs/{run_id}/cancel", self._preflight, methods=["OPTIONS"]),
        ]

    # -- CopilotKit's names for the same, so that `runtimeUrl` may be `/agui` (its source: packages/core/src/agent.ts)

    def _copilotkit(self) -> list[BaseRoute]:
        routes = (
            ("/agui", self._single, "POST"),
            ("/agui/info", self._info, "GET"),
            ("/agui/agent/{agent}/run", self._run, "POST"),
            ("/agui/agent/{agent}/connect", self._connect, "POST"),
            ("/agui/agent/{agent}/stop/{thread_id}", self._stop, "POST"),
        )
        return [
            route
            for path, endpoint, method in routes
            for route in (
                Route(path, endpoint, methods=[method]),
                Route(path, self._preflight, methods=["OPTIONS"]),
            )
        ]

    async def _single(self, request: Request) -> Response:
        """POST with `{method, params, body}`: its single-endpoint transport."""
        try:
            envelope = opened(await _body(request))
            if envelope is None:
                raise ClientError(
                    "bad_body",
                    "The body is not {method, params, body}.",
                    "Post to /agui/{agent}.",
                    number=422,
                )
        except ClientError as fault:
            return self._failed(request, fault)
        return await self._dispatch(request, envelope)

    async def _dispatch(self, request: Request, envelope: RequestEnvelope) -> Response:
        request.state.agui_body = bytes(envelope.body)
        params = {name: str(envelope.params.get(name, "")) for name in ("agentId", "threadId")}
        request.path_params["agent"] = params["agentId"] or request.path_params.get("agent", "")
        request.path_params["thread_id"] = params["threadId"]
        methods = {
            "info": self._info,
            "agent/run": self._run,
            "agent/connect": self._connect,
            "agent/stop": self._stop,
        }
        return await methods[envelope.method](request)

    async def _info(self, request: Request) -> Response:
        """The agents in CopilotKit's form (RuntimeInfo). Of a refusal, CopilotKit shows `message`."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return problem(found, headers=self._http.cors(request), message=True)
        agents = {
            name: {"name": name, "className": "Narthex", **self._described(name, request)}
            for name in self._engine.agents
        }
        info = {"version": "1.0.0", "agents": agents, "audioFileTranscriptionEnabled": False, "mode": "sse"}
        return self._json(request, info)

    async def _stop(self, request: Request) -> Response:
        """Cancel the run that the body names (`{runId}`), or every run of the thread where it names none of them."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            run = stopped_run(await _body(request))
            await self._requests.cancel_thread(found, request.path_params["thread_id"], run)
        except ClientError as fault:
            return self._failed(request, fault)
        return self._json(request, {"stopped": True})

    # -- what there is -------------------------------------------------------------------------------------

    async def _agents(self, request: Request) -> Response:
        """Every agent with its capabilities, the default one first."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        return self._json(
            request, {"agents": [self._described(name, request) for name in self._engine.agents]}
        )

    async def _one(self, request: Request) -> Response:
        """One agent's capabilities."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            return self._json(request, self._described(self._agent(request), request))
        except ClientError as fault:
            return self._failed(request, fault)

    def _described(self, name: str, request: Request) -> dict[str, object]:
        agent = self._engine.agents[name]
        return {
            "name": name,
            "description": agent.description,
            "suggestions": list(agent.suggestions),
            "url": f"{root_path(request.scope)}/agui/{name}",
            "capabilities": capabilities(agent, self._engine.limits.run_deadline_s),
        }

    def _agent(self, request: Request) -> str:
        """The agent in the path. Raises ClientError `agent_not_found` (404)."""
        return self._engine.choose(request.path_params["agent"], "").name

    async def _preflight(self, request: Request) -> Response:
        return self._http.cors_preflight(request, ("GET", "POST"))

    # -- runs ----------------------------------------------------------------------------------------------

    async def _post(self, request: Request) -> Response:
        """POST: a run, or what CopilotKit's envelope asks for."""
        try:
            request.state.agui_body = body = await _body(request)
        except ClientError as fault:
            return self._failed(request, fault)
        envelope = opened(body)
        return await (self._run(request) if envelope is None else self._dispatch(request, envelope))

    async def _run(self, request: Request) -> Response:
        """POST: start a run, or find it, and stream it."""

        async def begin(connection: Connection, identity: Identity) -> FollowedRun | Connected:
            asked = parse(await _body(request))
            with ending(connection.request_span("agui", asked.given.forwarded)) as span, within(span):
                return await start(identity, asked)

        async def start(identity: Identity, asked: Asked) -> FollowedRun | Connected:
            agent = self._agent(request)
            if asked.wishes.connect:
                return await self._connected(request, identity, asked, agent)
            return await self._requests.run(identity, asked, agent)

        return await self._streamed(request, begin)

    async def _follow(self, request: Request) -> Response:
        """GET: stream a run of the user, in a form that EventSource can request."""

        async def find(_: Connection, identity: Identity) -> FollowedRun:
            thread = request.query_params.get("threadId", "")
            return await self._requests.follow(identity, request.path_params["run_id"], thread)

        return await self._streamed(request, find)

    async def _connect(self, request: Request) -> Response:
        """POST: replay a thread, and follow its runs until none is left."""

        async def find(_: Connection, identity: Identity) -> Connected:
            asked = parse(await _body(request), connect=True)
            return await self._connected(request, identity, asked, self._agent(request))

        return await self._streamed(request, find)

    async def _connected(self, request: Request, identity: Identity, asked: Asked, agent: str) -> Connected:
        preamble = not request.headers.get("last-event-id")
        return await self._requests.connect(identity, asked, agent, preamble=preamble)

    async def _history(self, request: Request) -> Response:
        """GET: a thread's stored messages in AG-UI's form, the agent's state, the runs under way, open interrupts."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            agent = self._agent(request)
            name = request.path_params["thread_id"]
            if not await self._requests.exists(found, name):
                return self._json(request, EMPTY_THREAD | {"threadId": name})
            thread_id, _ = await self._requests.thread(found, name)
            before, before_id = moment_and_id(request, "before", "beforeId", status=400)
            view, rows = await self._requests.view(found, thread_id, before, before_id)
        except ClientError as fault:
            return self._failed(request, fault)
        return self._json(
            request,
            {
                "threadId": name,
                "messages": messages(rows),
                "state": view.states.get(agent),
                "interrupts": interrupts(view.interrupts),
                "messageRuns": message_runs(rows),
                "runs": [active_run(run) for run in view.runs],
                "endedRuns": [ended_run(run) for run in view.outcomes],
                "lastEventId": event_id(view.offset, view.epoch).decode(),
                "next": {"before": rows[0].created_at, "beforeId": rows[0].message_id}
                if len(rows) >= MAX_MESSAGES
                else None,
            },
        )

    async def _cancel(self, request: Request) -> Response:
        """POST: cancel a run, named by the gateway's id or the client's own."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            return self._json(request, await self._requests.cancel(found, request.path_params["run_id"]))
        except ClientError as fault:
            return self._failed(request, fault)

    # -- streaming -----------------------------------------------------------------------------------------

    async def _streamed(self, request: Request, work: Work) -> Response:
        """Admit, work, and answer with the run's stream or the refusal."""
        decision: Decision = await settled(
            self._upgrade_handler.decide(msgspec.structs.replace(head_of(request), path=_ADMITTED_AS))
        )
        if isinstance(decision, Deny):
            return self._refused(request, decision.refusal, decision.trace_id)
        connection = decision.receiver
        assert isinstance(connection, Connection)  # the upgrade handler makes one for this route
        stream = RunStream(connection, abort_of(request))
        try:
            answer = await self._begun(request, stream, work)
        except BaseException:
            stream.close()
            raise
        if not isinstance(answer, StreamedAnswer):
            stream.close()
        return answer

    async def _begun(self, request: Request, stream: RunStream, work: Work) -> Response:
        context = stream.connection.context
        identity = context.identity
        if identity is None or identity.identity_class is IdentityClass.PROBE:
            expired = context.admit.inert == "expired"
            return self._refused(request, Refusal(code="token_expired" if expired else "auth_required"))
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                await stream.connect()
                found = await work(stream.connection, identity)
                last = request.headers.get("last-event-id")
                if isinstance(found, Connected):
                    since = position_of(last) if last else found.at
                    if found.real_id:
                        await stream.join(thread_channel(found.real_id), since)
                else:
                    since = position_of(last) if last else found.since
                    await stream.join(thread_channel(found.run.thread_id), since)
        except ClientError as fault:
            return self._failed(request, fault)
        except Ended as fault:
            return self._refused(request, _refusal_of(fault))
        except TimeoutError:
            return self._refused(request, _NOT_NOW)
        if isinstance(found, Connected):
            return self._thread_answer(request, stream, identity, found)
        return self._run_answer(request, stream, identity, found)

    def _run_answer(
        self, request: Request, stream: RunStream, identity: Identity, followed: FollowedRun
    ) -> Response:
        run = followed.run

        async def is_over() -> bool:
            try:
                kept = await self._store.runs.get(run.tenant, run.run_id)
            except DependencyError:  # asked again at the next ping
                return False
            return kept is None or kept.over

        def ended() -> None:
            stream.close()
            if followed.cancels and stream.left:
                self._tasks.spawn(self._left(identity, run.run_id))

        headers = {**self._stream_headers(request, run.thread_id), "Narthex-Run": run.run_id}
        events = stream.events(
            run.run_id,
            followed.names,
            over=run.over,
            is_over=is_over,
            before=partial(self._requests.before, identity),
        )
        return StreamedAnswer(events, "text/event-stream", headers, ended)

    def _thread_answer(
        self, request: Request, stream: RunStream, identity: Identity, thread: Connected
    ) -> Response:
        async def names(event: Event) -> ClientNames:
            ids = (str(event["runId"]), str(event.get("parentRunId", "")))
            return await self._requests.names(identity.tenant, thread.thread_id, *ids)

        async def is_idle(ended: Collection[str]) -> bool:
            try:
                active = await self._store.runs.active_in_thread(identity.tenant, thread.real_id)
            except DependencyError:  # as above
                return False
            return all(run.run_id in ended for run in active)

        async def appears() -> str:
            with contextlib.suppress(DependencyError):  # as above
                return await self._requests.existing(identity, thread.thread_id)
            return ""

        feed = ThreadEvents(thread, names, partial(self._requests.before, identity))
        blocks = thread_blocks(stream, thread, feed, is_idle, appears)
        headers = self._stream_headers(request, thread.real_id)
        return StreamedAnswer(blocks, "text/event-stream", headers, stream.close)

    def _stream_headers(self, request: Request, thread_id: str) -> dict[str, str]:
        return {
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Narthex-Thread": thread_id,
            **self._http.cors(request),
        }

    async def _left(self, identity: Identity, run_id: str) -> None:
        """The client left, and wished its run to end then. A failure leaves the run as it is."""
        with contextlib.suppress(ClientError, DependencyError):
            await self._engine.requests.cancel(identity, run_id)

    # -- answers -------------------------------------------------------------------------------------------

    def _json(self, request: Request, value: object) -> Response:
        headers = {"Cache-Control": "no-store", **self._http.cors(request)}
        return Response(encode_json(value), media_type="application/json", headers=headers)

    def _refused(self, request: Request, refusal: Refusal, trace_id: str = "") -> Response:
        return problem(refusal, trace_id, headers=self._http.cors(request))

    def _failed(self, request: Request, fault: ClientError) -> Response:
        response = client_error(fault)
        response.headers.update(self._http.cors(request))
        return response


def _refusal_of(ended: Ended) -> Refusal:
    """The refusal in the reason with which the gateway closed the connection: `code: text` (`domain.refusals`)."""
    code = ended.reason.partition(":")[0]
    if code not in TABLE or TABLE[code].http is None:
        return _NOT_NOW
    return Refusal(code=code, retry_after_s=1 if TABLE[code].http == 503 else None)


async def _body(request: Request) -> bytes:
    """The body, or the one inside of an envelope. Raises ClientError `body_too_large` (413)."""
    if (inside := getattr(request.state, "agui_body", None)) is not None:
        return bytes(inside)
    body = await bounded_body(request, MAX_BODY)
    if body is None:
        raise ClientError(
            "body_too_large",
            "The body is over 1 MB.",
            "Send only the new messages; the gateway already stores the earlier ones.",
            number=413,
        )
    return body
