"""Serves the routes of the server API: authorises the caller, decodes the body and chooses the status.

Not here: the work itself (app). Rules: every route names its permitted callers (an operator, or the user whose data
it is); a refusal is problem+json; an invalid body gets 422, which names the place and never the value.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from narthex.app.chat import Chat
from narthex.app.exports import ExportSlots
from narthex.app.provider import Provider
from narthex.app.revocations import Revocations
from narthex.app.runs.engine import RunEngine
from narthex.domain.channels import channel_key, parse_channel
from narthex.domain.identity import OPERATOR, Identity
from narthex.domain.ids import user_key
from narthex.domain.json_depth import MAX_EVENT_DEPTH, json_depth_exceeds
from narthex.domain.refusals import Refusal
from narthex.errors import ClientError
from narthex.ports.broker import Broker, Control
from narthex.ports.store import GATE_RESULT, Store, TestRunResult
from narthex.ports.telemetry import Meter
from narthex.protocol.replies import encode_json
from narthex.web.access import Access, Operator
from narthex.web.api import bodies
from narthex.web.api.description import Description
from narthex.web.api.export import Download, as_json, as_markdown
from narthex.web.api.operations import (
    Handler,
    RevokeAndDrain,
    audit,
    body_of,
    endpoint,
    json_answer,
    operation,
)
from narthex.web.fields import moment_and_id, whole_number
from narthex.web.problems import client_error, problem


class ServerApi:
    """See the module."""

    def __init__(
        self,
        *,
        access: Access,
        broker: Broker,
        store: Store,
        chat: Chat,
        exports: ExportSlots,
        engine: RunEngine,
        revocations: Revocations,
        provider: Provider | None,
        meter: Meter,
        drain: Callable[[str], Awaitable[None]],
        environment: str,
    ) -> None:
        self._operations = RevokeAndDrain(access, revocations, drain, store.records)
        self._access = access
        self._broker = broker
        self._store = store
        self._chat = chat
        self._exports = exports
        self._engine = engine
        self._provider = provider
        self._meter = meter
        self._environment = environment

    def routes(self) -> list[BaseRoute]:
        """Starlette routes."""
        operations: dict[str, tuple[type[Any], Callable[[Operator, Any], Awaitable[object]]]] = {
            "/api/v1/publish": (bodies.Publish, self._publish),
            "/api/v1/subscribe": (bodies.Subscribe, self._subscribe),
            "/api/v1/unsubscribe": (bodies.Unsubscribe, self._unsubscribe),
            "/api/v1/disconnect": (bodies.Disconnect, self._disconnect),
            "/api/v1/users/block": (bodies.BlockUser, self._block),
        }
        own: dict[str, Handler[Identity]] = {
            "/api/v1/threads": self._threads,
            "/api/v1/threads/{thread_id}": self._thread,
            "/api/v1/threads/{thread_id}/export": self._export,
            "/api/v1/runs/{run_id}": self._run,
        }
        return [
            *(
                Route(path, operation(self._access, path, *taken), methods=["POST"])
                for path, taken in operations.items()
            ),
            *self._operations.routes(),
            Route("/api/v1/e2e/results", self._results, methods=["POST"]),
            Route("/api/v1/e2e/results", endpoint(self._access.operator, self._result_list), methods=["GET"]),
            *(
                Route(path, endpoint(self._access.signed_in_user, run), methods=["GET"])
                for path, run in own.items()
            ),
            *Description().routes(),
        ]

    # -- operators -----------------------------------------------------------------------------------------

    async def _publish(self, _: Operator, body: bodies.Publish) -> object:
        if parse_channel(body.channel) is None:
            raise ClientError(
                "unknown_channel", "There is no such channel.", "Use thread:<id> or user:<id>.", number=422
            )
        data = encode_json(body.data)
        if json_depth_exceeds(data, MAX_EVENT_DEPTH):
            raise ClientError(
                "payload_invalid",
                f"`data` nests deeper than {MAX_EVENT_DEPTH} levels.",
                "Send flatter JSON.",
                number=422,
            )
        key = channel_key(body.tenant, body.channel)
        published = await self._broker.publish(key, data, key=body.key and f"api:{body.key}")
        return {"offset": published.offset, "epoch": published.epoch, "duplicate": published.duplicate}

    async def _subscribe(self, _: Operator, body: bodies.Subscribe) -> object:
        thread_id = _thread_of(body.channel)
        if await self._store.threads.role(body.tenant, thread_id, body.user) is None:
            raise ClientError(
                "not_a_member",
                "There is no such thread, or the user is no member of it.",
                "Let an owner add the user with thread.members.add first.",
                number=409,
            )
        since = body.recover_since
        position = {"offset": since.offset if since else 0, "epoch": since.epoch if since else ""}
        return await self._control(
            "subscribe", body, channel=channel_key(body.tenant, body.channel), **position
        )

    async def _unsubscribe(self, _: Operator, body: bodies.Unsubscribe) -> object:
        _thread_of(body.channel)
        return await self._control("unsubscribe", body, channel=channel_key(body.tenant, body.channel))

    async def _disconnect(self, operator: Operator, body: bodies.Disconnect) -> object:
        await audit(
            self._store.records,
            "disconnect",
            operator,
            body.tenant,
            body.user,
            client=body.client,
            code=body.code,
            reason=body.reason,
        )
        return await self._control("disconnect", body, code=body.code, reason=body.reason)

    async def _control(
        self, kind: str, body: bodies.Subscribe | bodies.Unsubscribe | bodies.Disconnect, **more: object
    ) -> object:
        """Tell every node about connections of a user, or about one `client` of them."""
        data = {"user": user_key(body.tenant, body.user), "client": body.client, **more}
        await self._broker.control(Control(kind, data))
        return {}

    async def _block(self, _: Operator, body: bodies.BlockUser) -> object:
        if self._provider is None:
            raise ClientError(
                "no_provider", "The embedded provider is off.", "Block the user at your issuer.", number=409
            )
        found = await self._provider.block_user(
            body.tenant, body.user, blocked=body.blocked, reason=body.reason
        )
        if not body.blocked and not found:
            raise ClientError("user_not_found", "No user has this id.", "Give the user's id.", number=404)
        return {"known": found}  # an unknown user is blocked by subject, for tokens of every issuer

    # -- end-to-end results --------------------------------------------------------------------------------

    async def _results(self, request: Request) -> Response:
        """An operator may post any run's results, a test identity only those of its own `test_run`."""
        caller = await self._access.caller(request)
        if isinstance(caller, Refusal):
            return problem(caller)
        tester = isinstance(caller, Identity) and caller.e2e
        if isinstance(caller, Identity) and not tester and not caller.may(OPERATOR):
            return problem(Refusal(code="permission_denied", detail="The permission `operator` is needed."))
        try:
            body = await body_of(request, bodies.Results)
        except ClientError as fault:
            return client_error(fault)
        if isinstance(caller, Identity) and tester and caller.test_run != body.test_run:
            return problem(
                Refusal(code="permission_denied", detail="A test identity may report only its own test run.")
            )
        await self._store.records.add_result(
            TestRunResult(
                test_run=body.test_run,
                at=time.time(),
                environment=body.environment or self._environment,
                passed=body.passed,
                failed=body.failed,
                skipped=body.skipped,
                duration_s=body.duration_s,
                report=msgspec.json.encode(body.report).decode(),
            )
        )
        if body.report.get("kind") == GATE_RESULT:  # its checks are no tests: they are shown, and not counted
            return json_answer({"test_run": body.test_run})
        for result, count in (("passed", body.passed), ("failed", body.failed), ("skipped", body.skipped)):
            self._meter.e2e_tests(result, count)
        if body.passed + body.failed:
            self._meter.gauge("e2e_success_ratio", body.passed / (body.passed + body.failed))
        self._meter.gauge("e2e_reported_timestamp_seconds", time.time())
        return json_answer({"test_run": body.test_run})

    async def _result_list(self, _: Operator, __: Request) -> object:
        return {"results": await self._store.records.results(100)}

    # -- a person's own data -------------------------------------------------------------------------------

    async def _threads(self, identity: Identity, request: Request) -> object:
        moment, before_id = moment_and_id(request, "before", "before_id")
        limit = whole_number(request, "limit", 50, most=200)
        return {"threads": await self._chat.threads_of(identity, moment, limit, before_id)}

    async def _thread(self, identity: Identity, request: Request) -> object:
        return await self._chat.view(identity, request.path_params["thread_id"], None, 200)

    async def _run(self, identity: Identity, request: Request) -> object:
        return await self._engine.requests.get(identity, request.path_params["run_id"])

    async def _export(self, identity: Identity, request: Request) -> Response:
        """The whole thread as JSON or Markdown, as a download."""
        form = request.query_params.get("format", "json")
        if form not in ("json", "md"):
            raise ClientError("bad_params", "`format` is unknown.", "Choose json or md.", number=422)
        slot = self._exports.take(identity)
        try:
            view, pages, ended = await self._chat.export(identity, request.path_params["thread_id"])
        except BaseException:
            slot.release()
            raise
        name = f"thread-{view.thread.thread_id}.{form}"
        markdown = form == "md"
        return Download(
            as_markdown(view, pages, ended) if markdown else as_json(view, pages, ended),
            media_type="text/markdown; charset=utf-8" if markdown else "application/json",
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
            on_end=slot.release,
        )


def _thread_of(channel: str) -> str:
    """The thread of a channel name. Raises ClientError: `user:` channels are the gateway's own to subscribe."""
    parsed = parse_channel(channel)
    if parsed is None or parsed[0] != "thread":
        raise ClientError(
            "unknown_channel",
            "Only thread:<id> can be subscribed to.",
            "Every connection has its user's own channel.",
            number=422,
        )
    return parsed[1]
