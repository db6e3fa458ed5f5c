"""The shell of every route that authorises its caller, and the two operations that a guard serves as well.

The two are revoke and drain.

Not here: the gateway's other operations (`routes`). Rules: as of `routes`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from narthex.app.revocations import Revocations
from narthex.domain.identity import Identity
from narthex.domain.moments import MOMENT_RULE, valid_moment
from narthex.domain.refusals import Refusal
from narthex.errors import ClientError, DependencyError
from narthex.ports.credentials import Revocation
from narthex.ports.store import AuditRecord, Records
from narthex.protocol.replies import encode_json
from narthex.web.access import Access, Operator
from narthex.web.api import bodies
from narthex.web.fields import bounded_body
from narthex.web.problems import client_error, problem, trace_id_for

MAX_BODY: Final = 256 * 1024
CLOCK_SLACK_S: Final = 60.0  # by which an operator's clock may be ahead of ours
REVOKED_FOR_S: Final = (
    400 * 86_400.0
)  # other issuers' tokens may live for a year; revocations by hand are few
INTERVENTIONS: Final = ("/api/v1/disconnect", "/api/v1/revoke")
B = TypeVar("B", bound=msgspec.Struct)
Caller = TypeVar("Caller", Operator, Identity)
Handler: TypeAlias = Callable[[Caller, Request], Awaitable[object]]
Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def endpoint(authorise: Callable[[Request], Awaitable[Caller | Refusal]], run: Handler[Caller]) -> Endpoint:
    """An endpoint for the callers that `authorise` lets through.

    Args:
        authorise: returns the caller of a request, or the reason why it may not call.
        run: does the work. What it returns is the answer, as JSON unless it is a Response; a ClientError that it
            raises is answered as a problem.
    """

    async def answer(request: Request) -> Response:
        caller = await authorise(request)
        if isinstance(caller, Refusal):
            return problem(caller, trace_id_for(request))
        try:
            found = await run(caller, request)
        except ClientError as fault:
            return client_error(fault, trace_id_for(request))
        return found if isinstance(found, Response) else json_answer(found)

    return answer


def operation(
    access: Access, path: str, kind: type[B], run: Callable[[Operator, B], Awaitable[object]]
) -> Endpoint:
    """An endpoint for administrators of the tenant that the body names; a drain is for operators of the process, who
    may also close connections and revoke tokens of any tenant.
    """
    authorise = access.administrator
    if path == "/api/v1/drain":
        authorise = access.operator
    elif path in INTERVENTIONS:
        authorise = access.intervener

    async def operate(operator: Operator, request: Request) -> object:
        body = await body_of(request, kind)
        tenant = getattr(body, "tenant", None)
        if operator.tenant is not None and tenant is not None and tenant != operator.tenant:
            refusal = Refusal(code="tenant_mismatch", detail="This token is valid for its own tenant only.")
            return problem(refusal, trace_id_for(request))
        return await run(operator, body)

    return endpoint(authorise, operate)


class RevokeAndDrain:
    """The two operations.

    Args:
        access: authorises callers.
        revocations: stores revocations.
        drain: begins a drain of the node that it is given, empty for this one.
        records: takes an audit record of a drain.
    """

    def __init__(
        self,
        access: Access,
        revocations: Revocations,
        drain: Callable[[str], Awaitable[None]],
        records: Records,
    ) -> None:
        self._records = records
        self._access = access
        self._revocations = revocations
        self._drain = drain

    def routes(self) -> list[Route]:
        """Starlette routes."""
        operations: dict[str, tuple[type[Any], Callable[[Operator, Any], Awaitable[object]]]] = {
            "/api/v1/revoke": (bodies.Revoke, self._revoke),
            "/api/v1/drain": (bodies.Drain, self._drain_node),
        }
        return [
            Route(path, operation(self._access, path, *taken), methods=["POST"])
            for path, taken in operations.items()
        ]

    async def _revoke(self, operator: Operator, body: bodies.Revoke) -> object:
        now = time.time()
        if not valid_moment(body.until):  # it would be kept for 50,000 years
            raise ClientError(
                "bad_params", "`until` lies after the year 9999.", f"Give {MOMENT_RULE}.", number=422
            )
        if body.before > now + CLOCK_SLACK_S:  # it would revoke every token that is yet to be issued
            raise ClientError(
                "bad_params",
                "`before` lies in the future.",
                f"Give {MOMENT_RULE}.",
                number=422,
            )
        if body.until and body.until <= now:
            raise ClientError(
                "bad_params",
                "`until` lies in the past.",
                f"Give the token's `exp` in {MOMENT_RULE}.",
                number=422,
            )
        revocation = Revocation(
            kind=body.kind,
            tenant=body.tenant,
            value=body.value,
            at=now,
            cut=body.before or now,
            until=body.until + self._revocations.after_exp_s if body.until else now + REVOKED_FOR_S,
            reason=body.reason or f"by {operator.name}",
        )
        await self._revocations.revoke(revocation)
        return {}

    async def _drain_node(self, operator: Operator, body: bodies.Drain) -> object:
        with contextlib.suppress(DependencyError):  # a store that is away is a reason to drain
            await audit(self._records, "drain", operator, "", body.node or "this instance")
        await self._drain(body.node)
        return {"draining": body.node or "this instance"}


async def audit(
    records: Records, kind: str, operator: Operator, tenant: str, subject: str, **detail: object
) -> None:
    """Record what an operator does, before it is done. Raises DependencyError."""
    text = msgspec.json.encode({"by": operator.name, **detail}).decode()
    await records.audit(AuditRecord(at=time.time(), kind=kind, tenant=tenant, subject=subject, detail=text))


async def body_of(request: Request, kind: type[B]) -> B:
    """The decoded body. Raises ClientError: it is too large, or is not what the operation takes."""
    raw = await bounded_body(request, MAX_BODY)
    if raw is None:
        raise ClientError("body_too_large", "The body is over 256 KB.", "Send less.", number=413)
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as fault:
        raise ClientError("bad_body", f"{fault}.", "See /api/v1/openapi.json.", number=422) from fault


def json_answer(value: object) -> Response:
    """An answer that no cache keeps."""
    return Response(encode_json(value), media_type="application/json", headers={"Cache-Control": "no-store"})
