"""Serves the routes of AG-UI over HTTP: finds the caller, the thread and the run, and the answer's status.

Not here: the stream of events (`stream`), the request's body (`run_input`). Rules: the upgrade's handler admits each
stream, which takes a slot like a WebSocket; a client's `threadId` and `runId` are its names for a thread and a run, and
events carry them; the same thread, `runId` and message give the same run, so that a repeat with `Last-Event-ID`
continues where the stream broke; a client that leaves does not cancel its run, unless it asked for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.chat import derived_id
from narthex.app.connection import COMMAND_TIMEOUT_S, Connection
from narthex.app.core import NodeCore
from narthex.app.thread_view import ThreadView
from narthex.domain import endpoints
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import Event
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.ids import valid_id
from narthex.domain.refusals import TABLE, Refusal
from narthex.domain.runs import ACTIVE
from narthex.domain.threads import thread_not_found
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Position
from narthex.ports.edge import Decision, Deny, UpgradeHandler
from narthex.ports.later import settled
from narthex.ports.runs import Run
from narthex.ports.threads import Message
from narthex.ports.tracing import ending, within
from narthex.protocol.replies import encode_json
from narthex.web.agui.capabilities import capabilities
from narthex.web.agui.history import (
    MAX_MESSAGES,
    active_run,
    ended_run,
    interrupts,
    message_runs,
    messages,
)
from narthex.web.agui.run_input import Asked, Envelope, event_id, opened, parse, position_of
from narthex.web.agui.stream import Ended, Names, RunStream
from narthex.web.agui.thread_stream import Connected, ThreadFeed, thread_blocks
from narthex.web.fallbacks import StreamedAnswer
from narthex.web.fields import bounded_body
from narthex.web.problems import client_error, problem
from narthex.web.request_rules import RequestAuthenticator, abort_of, head_of

PAGE: Final = 200  # messages of one read
MAX_BODY: Final = 1024 * 1024  # stock clients send the whole conversation each time
_ADMITTED_AS: Final = endpoints.SSE  # the upgrade handler's name for a stream of server-sent events
_NOT_NOW: Final = Refusal(code="overloaded", retry_after_s=1)


class Followed(msgspec.Struct, frozen=True):
    """A run to stream: from where, under which names; `cancels`: a client that leaves cancels it."""

    run: Run
    since: Position
    names: Names
    cancels: bool = False


Work = Callable[[Connection, Identity], Awaitable[Followed | Connected]]


def _derived(*parts: str) -> str:
    """A thread id for a name, unique because all tenants and users share one name space of ids."""
    return hashlib.sha256("\x00".join(("agui-thread", *parts)).encode()).hexdigest()[:32]


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
        self._chat = core.chat
        self._engine = core.engine
        self._starter = core.starter
        self._store = core.store
        self._broker = core.broker
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

    async def _dispatch(self, request: Request, envelope: Envelope) -> Response:
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
        """The agents in CopilotKit's form (RuntimeInfo)."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        agents = {
            name: {"name": name, "className": "Narthex", **self._described(name)}
            for name in self._engine.agents
        }
        info = {"version": "1.0.0", "agents": agents, "audioFileTranscriptionEnabled": False, "mode": "sse"}
        return self._json(request, info)

    async def _stop(self, request: Request) -> Response:
        """Cancel every run of a thread."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            thread_id, _ = await self._thread(found, request.path_params["thread_id"])
            await self._chat.require(found, thread_id)
            await self._engine.requests.cancel_thread(found, thread_id)
        except ClientError as fault:
            return self._failed(request, fault)
        return self._json(request, {"stopped": True})

    # -- what there is -------------------------------------------------------------------------------------

    async def _agents(self, request: Request) -> Response:
        """Every agent with its capabilities, the default one first."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        return self._json(request, {"agents": [self._described(name) for name in self._engine.agents]})

    async def _one(self, request: Request) -> Response:
        """One agent's capabilities."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            return self._json(request, self._described(self._agent(request)))
        except ClientError as fault:
            return self._failed(request, fault)

    def _described(self, name: str) -> dict[str, object]:
        agent = self._engine.agents[name]
        return {
            "name": name,
            "description": agent.description,
            "suggestions": list(agent.suggestions),
            "url": f"/agui/{name}",
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

        async def begin(connection: Connection, identity: Identity) -> Followed | Connected:
            asked = parse(await _body(request))
            with ending(connection.request_span("agui", asked.given.forwarded)) as span, within(span):
                return await start(identity, asked)

        async def start(identity: Identity, asked: Asked) -> Followed | Connected:
            agent = self._agent(request)
            if asked.wishes.connect:
                return await self._connected(request, identity, asked, agent)
            thread_id, create = await self._thread(identity, asked.thread_id)
            if asked.resume:
                run, since = await self._resumed(identity, asked, thread_id)
            else:
                run, since = await self._begun_run(identity, asked, thread_id, agent, create=create)
            names = Names(
                asked.thread_id, asked.run_id, await self._client_name(run.tenant, run.parent_run_id)
            )
            return Followed(run, since, names, cancels=asked.wishes.on_disconnect == "cancel")

        return await self._streamed(request, begin)

    async def _begun_run(
        self, identity: Identity, asked: Asked, thread_id: str, agent: str, *, create: bool
    ) -> tuple[Run, Position]:
        """Start the run that a request asks for; the same thread, run and message again give the same one."""
        message = asked.message
        message_id = message.message_id if message is not None else asked.given.results[-1].message_id
        key = f"{thread_id}\x00{asked.run_id}\x00{message_id}"
        started = await self._starter.start(
            identity,
            text=message.text if message is not None else "",
            client_message_id=derived_id("agui", identity, key),
            thread_id=thread_id,
            agent=agent,
            create=create,
            # An id that no store or channel takes is replaced; a stock client's is a UUID.
            message_id=message_id if message is not None and valid_id(message_id) else "",
            given=asked.given,
            busy=asked.wishes.busy,
        )
        if started.said_at is not None:
            return started.run, started.said_at
        return await self._found(identity, started.run.run_id)

    async def _follow(self, request: Request) -> Response:
        """GET: stream a run of the user, in a form that EventSource can request."""

        async def find(_: Connection, identity: Identity) -> Followed:
            asked = request.path_params["run_id"]
            run, since = await self._found(identity, (await self._named(identity, asked)).run_id)
            thread = request.query_params.get("threadId") or run.thread_id
            names = Names(thread, asked, await self._client_name(run.tenant, run.parent_run_id))
            return Followed(run, since, names)

        return await self._streamed(request, find)

    async def _connect(self, request: Request) -> Response:
        """POST: replay a thread, and follow its runs until none is left."""

        async def find(_: Connection, identity: Identity) -> Connected:
            asked = parse(await _body(request), connect=True)
            return await self._connected(request, identity, asked, self._agent(request))

        return await self._streamed(request, find)

    async def _connected(self, request: Request, identity: Identity, asked: Asked, agent: str) -> Connected:
        """The thread that a client connects to; an empty one where the user has none of this name (yet)."""
        thread_id, create = await self._thread(identity, asked.thread_id)
        last = request.headers.get("last-event-id")
        view: ThreadView | None = None
        rows: list[Message] = []
        if await self._chat.role(identity, thread_id) is None:
            if not create:
                raise thread_not_found()
        elif not last:
            view, rows = await self._viewed(identity, thread_id, None, "")
        return Connected(
            real_id=thread_id if view is not None or last else "",
            thread_id=asked.thread_id,
            run_id=asked.run_id,
            messages=messages(rows),
            state=view.states.get(agent) if view is not None else None,
            interrupts=interrupts(view.interrupts) if view is not None else [],
            at=Position(view.offset, view.epoch) if view is not None else Position(0, ""),
            whole_runs={row.run_id for row in rows if row.run_id},
            preamble=not last,
            follow=asked.wishes.follow,
        )

    async def _viewed(
        self, identity: Identity, thread_id: str, before: float | None, before_id: str
    ) -> tuple[ThreadView, list[Message]]:
        """The thread, and its newest `MAX_MESSAGES` messages before a place."""
        view = await self._chat.view(identity, thread_id, before, PAGE, before_id)
        rows = page = view.messages
        while len(page) == PAGE and len(rows) < MAX_MESSAGES:
            older = await self._chat.view(identity, thread_id, page[0].created_at, PAGE, page[0].message_id)
            page, view.outcomes = older.messages, older.outcomes + view.outcomes
            rows = page + rows
        return view, rows

    async def _history(self, request: Request) -> Response:
        """GET: a thread's stored messages in AG-UI's form, the agent's state, the runs under way, open interrupts."""
        found = await self._http.authenticate(request)
        if isinstance(found, Refusal):
            return self._refused(request, found)
        try:
            agent = self._agent(request)
            name = request.path_params["thread_id"]
            thread_id, _ = await self._thread(found, name)
            query = request.query_params
            try:
                before = float(query["before"]) if "before" in query else None
            except ValueError as fault:
                raise ClientError(
                    "bad_params", "`before` is not a number.", "Send `next` as it came."
                ) from fault
            view, rows = await self._viewed(found, thread_id, before, query.get("beforeId", ""))
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
            run = await self._named(found, request.path_params["run_id"])
            return self._json(request, await self._engine.requests.cancel(found, run.run_id))
        except ClientError as fault:
            return self._failed(request, fault)

    async def _named(self, identity: Identity, name: str) -> Run:
        """The run with an id, or the newest one that a client gave this name; the user's own ones first.

        Raises:
            ClientError: `run_not_found` (404).
        """
        run = await self._store.runs.get(identity.tenant, name)
        candidates = [run] if run is not None else await self._store.runs.by_client_run(identity.tenant, name)
        for run in sorted(candidates, key=lambda one: one.user_id != identity.subject):
            if await self._chat.role(identity, run.thread_id) is not None:
                return run
        raise ClientError("run_not_found", "No such run is visible to you.", "Look again.", number=404)

    async def _client_name(self, tenant: str, run_id: str) -> str:
        """The name that a client gave a run, else its id."""
        run = await self._store.runs.get(tenant, run_id) if run_id else None
        return run.client_run_id or run_id if run is not None else run_id

    async def _thread(self, identity: Identity, name: str) -> tuple[str, bool]:
        """The thread that a client's `threadId` names, and whether it may have to be created.

        An id of the tenant's threads names that thread (404 unless the user is a member): the server makes ids, so
        another user cannot have taken it. Any other name is the user's own: two users' `main` are two threads.
        Earlier versions shared names within a tenant: for a member of such a thread, its name still names it.
        """
        if await self._store.threads.get(identity.tenant, name) is not None:
            await self._chat.require(identity, name)
            return name, False
        shared = _derived(identity.tenant, name)
        if await self._chat.role(identity, shared) is not None:
            return shared, False
        return _derived(identity.tenant, identity.subject, name), True

    async def _resumed(self, identity: Identity, asked: Asked, thread_id: str) -> tuple[Run, Position]:
        """Answer interrupts of the thread; returns the run in which its agent continues."""
        answered: dict[str, Any] = {}
        for entry in asked.resume:
            interrupt = await self._store.runs.interrupt(identity.tenant, entry.interrupt_id)
            if interrupt is None or interrupt.thread_id != thread_id:
                raise ClientError(
                    "interrupt_not_found",
                    "The thread has no question with this id.",
                    "Look again.",
                    number=404,
                )
            answered = await self._engine.requests.resume(
                identity,
                interrupt.run_id,
                entry.interrupt_id,
                entry.payload,
                dismissed=entry.status == "cancelled",
                given=asked.given,
            )
        if answered["open_questions"]:
            raise ClientError(
                "interrupts_open",
                f"The run asked {answered['open_questions']} more questions.",
                "Answer all interrupts of the run in one `resume`; the answers given so far count.",
                number=409,
            )
        return await self._found(identity, str(answered["run_id"]))

    async def _found(self, identity: Identity, run_id: str) -> tuple[Run, Position]:
        """A run of the user, and a position before its first event. The position is read first: a run that has not
        begun when its row is read begins after that position.
        """
        run = await self._store.runs.get(identity.tenant, run_id)
        if run is None or await self._chat.role(identity, run.thread_id) is None:
            raise ClientError("run_not_found", "No such run is visible to you.", "Look again.", number=404)
        key = channel_key(run.tenant, thread_channel(run.thread_id))
        top = (await self._broker.history(key, limit=0)).top
        run = await self._store.runs.get(identity.tenant, run_id) or run
        if (
            run.started_at or run.state not in ACTIVE
        ):  # else it has no event yet, and `start_offset` may be long gone
            return run, Position(run.start_offset, "")
        return run, top

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
        self, request: Request, stream: RunStream, identity: Identity, followed: Followed
    ) -> Response:
        run = followed.run

        async def is_over() -> bool:
            kept = await self._store.runs.get(run.tenant, run.run_id)
            return kept is None or kept.over

        def ended() -> None:
            stream.close()
            if followed.cancels and stream.left:
                self._tasks.spawn(self._left(identity, run.run_id))

        headers = {**self._stream_headers(request, run.thread_id), "Narthex-Run": run.run_id}
        events = stream.events(run.run_id, followed.names, over=run.over, is_over=is_over)
        return StreamedAnswer(events, "text/event-stream", headers, ended)

    def _thread_answer(
        self, request: Request, stream: RunStream, identity: Identity, thread: Connected
    ) -> Response:
        async def names(event: Event) -> Names:
            run_id = str(event["runId"])
            parent = await self._client_name(identity.tenant, str(event.get("parentRunId", "")))
            return Names(thread.thread_id, await self._client_name(identity.tenant, run_id), parent)

        async def is_idle(ended: Collection[str]) -> bool:
            active = await self._store.runs.active_in_thread(identity.tenant, thread.real_id)
            return all(run.run_id in ended for run in active)

        blocks = thread_blocks(stream, thread, ThreadFeed(thread, names), is_idle)
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
