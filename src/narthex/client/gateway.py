"""Connects to a narthex gateway: `async with connect(url, get_token=…) as gateway`.

Not here: finding the reason of a refusal (`handshake`), a thread's events (`feed`). It drives the unmodified
centrifuge-python SDK through its public interface only. Rules: a final refusal stops the SDK, and every waiting call
raises `Refused`; the SDK retries after any other failure with its own back-off, no sooner than `Retry-After`;
`close` ends everything that this object started.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    ConnectedContext,
    ConnectingContext,
    DisconnectedContext,
    ErrorContext,
    ReplyError,
    ServerPublicationContext,
)

from narthex.client.feed import ThreadFeed
from narthex.client.handshake import (
    AttemptHeaders,
    PreflightClient,
    TokenFailed,
    TokenSource,
    preflight_url,
    reason_of,
)
from narthex.client.refusals import Refused, Unreachable, from_close
from narthex.client.run import Run
from narthex.client.threads import Threads
from narthex.errors import ClientError, DependencyError

REPEATS: Final = 5  # of a repeatable call that a lost connection interrupted
MAX_IDLE_FEEDS: Final = 32  # threads that stay subscribed without a run; a gateway bounds them as well
MIN_WAIT_S: Final = 0.001  # the SDK does not accept a time-out of zero
EXPIRED_TRIES: Final = 2  # a token source may return a stale token once; twice, it has no fresh one
ENDED: Final = frozenset({"finished", "cancelled", "interrupted", "failed"})
"""States of `run.get` after which no event follows (docs/protocol.md)."""

_TOKEN_EXPIRED: Final = 109
_CLIENT_SIDE: Final = 100  # disconnect codes below are the SDK's own

Notice = Callable[[Mapping[str, Any]], None]
"""Called with each event on the user's own channel: a run began on another device, the user joined a thread …"""


class Gateway(ClientEventHandler):  # type: ignore[misc]  # the SDK ships no types
    """One connection. Made by `connect`.

    Attributes:
        sdk: the centrifuge-python client, for operations that have no method here.
        client_id: the connection's id at the gateway; empty before it is up.
        threads: members and invitations.
    """

    def __init__(
        self,
        url: str,
        *,
        get_token: TokenSource | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        connect_timeout_s: float = 30.0,
        on_notice: Notice | None = None,
        ssl_context: ssl.SSLContext | None = None,
        use_proxy: bool = True,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._on_notice = on_notice
        self._credentials = AttemptHeaders(get_token, headers or {}, timeout_s)
        self._preflight = PreflightClient(
            preflight_url(url), self._credentials.headers, timeout_s, ssl_context, use_proxy
        )
        self.client_id = ""
        self.sdk = Client(
            url,
            events=self,
            get_token=self._credentials.fresh if get_token is not None else None,
            headers=self._credentials.headers,
            timeout=timeout_s,
            name="narthex-python",
            ssl_context=ssl_context,
            proxy=True if use_proxy else None,
        )
        self.threads = Threads(self.rpc)
        self._feeds: dict[str, ThreadFeed] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._failure: Refused | None = None
        self._last: Refused | None = None
        self._token_failed = ""
        self._expired = 0
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
        self._closing = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and wait until the gateway admits this client.

        Raises:
            Refused: the gateway refused; the client does not retry.
            Unreachable: no gateway answered, or only with temporary refusals, for `connect_timeout_s`.
        """
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self.sdk.connect()
                await self._settled.wait()
        except TimeoutError as fault:
            await self.close()
            raise self._gave_up() from fault
        except BaseException:
            await self.close()
            raise
        if self._failure is not None:
            failure = self._failure
            await self.close()
            raise failure

    async def close(self) -> None:
        """Disconnect and end all tasks; iterations that are still running raise `disconnected`."""
        self._closing.set()
        gone = self._failure or Refused("disconnected", "This client is closed.", "Connect again.")
        for feed in list(self._feeds.values()):
            await feed.close(gone)
        self._feeds.clear()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await self.sdk.disconnect()

    # -- what one does with it ----------------------------------------------------------------------------------

    async def start_run(
        self,
        text: str,
        *,
        thread_id: str | None = None,
        agent: str | None = None,
        client_message_id: str | None = None,
        busy: str | None = None,
        state: Any = None,
        tools: Sequence[Mapping[str, Any]] = (),
        context: Sequence[Mapping[str, Any]] = (),
        forwarded: Mapping[str, Any] | None = None,
    ) -> Run:
        """Post a message in a thread or a new one, and follow the run that answers it.

        Args:
            text: the message.
            thread_id: the thread; None creates one.
            agent: the agent's name; None is the gateway's default.
            client_message_id: the same id gives the same run for every repeat; default a fresh one.
            busy: what the message does in a thread with a run: `enqueue`, `reject`, `interrupt` or `steer`; None: as
                the agent declares. With `steer` it may be the run under way that gets the message, and is returned.
            state: the agent's state as this client has it; None is the thread's.
            tools: AG-UI's tools that this client runs; `rpc("run.tool_result", …)` returns their results.
            context: AG-UI's context entries.
            forwarded: further properties for the agent.

        Raises:
            ClientError: the gateway's numbered error, such as 429 with the remedy.
        """
        params: dict[str, Any] = {"text": text, "client_message_id": client_message_id or uuid.uuid4().hex}
        given = {
            "agent": agent,
            "busy": busy,
            "state": state,
            "tools": [dict(tool) for tool in tools] or None,
            "context": [dict(entry) for entry in context] or None,
            "forwarded": dict(forwarded) if forwarded else None,
        }
        params |= {name: value for name, value in given.items() if value is not None}
        if thread_id is None:
            answer = await self.rpc("run.start", params, repeat=True)
            return await self._followed(
                answer, over=client_message_id is not None and await self._over(answer)
            )
        params["thread_id"] = thread_id
        feed = await self._feed(thread_id)
        async with feed.claiming():
            answer = await self.rpc("run.start", params, repeat=True)
            if client_message_id is None and not answer.get("steered"):
                return feed.follow(self._run(answer), from_history=False)
        # A caller's own id may name a run that began before this subscription, or that is over, as a steered one may.
        return await self._followed(answer, over=await self._over(answer))

    async def follow_run(self, run_id: str) -> Run:
        """Follow a run of any user from its first event, also one that has ended."""
        answer = await self.rpc("run.get", {"run_id": run_id}, repeat=True)
        return await self._followed(answer, over=answer.get("state") in ENDED)

    async def rpc(self, method: str, params: Mapping[str, Any] | None = None, *, repeat: bool = False) -> Any:
        """Call a method of the gateway (docs/protocol.md lists them).

        Args:
            method: such as `whoami`, `thread.list`.
            params: JSON-able.
            repeat: whether to call again when the connection broke before the answer came: only for idempotent
                methods. It takes at most `connect_timeout_s` and one command in all.

        Raises:
            ClientError: the gateway's numbered error; `number` ≥ 400.
            Refused: the connection ended for good.
            Unreachable: the connection broke before the answer came.
        """
        tries = REPEATS if repeat else 1
        fault: Exception | None = None
        loop = asyncio.get_running_loop()
        until = loop.time() + self._connect_timeout_s
        for attempt in range(tries):
            if self._failure is not None:
                raise self._failure
            left = until - loop.time()
            if attempt and left <= 0:
                break
            try:
                await self.sdk.ready(timeout=max(left, MIN_WAIT_S))
                answer = await self.sdk.rpc(method, dict(params or {}), timeout=self._timeout_s)
            except ReplyError as error:
                raise _numbered(error) from error
            except CentrifugeError as error:
                fault = error
            else:
                return answer.data
        await self._verdict()
        if self._failure is not None:
            raise self._failure
        raise Unreachable(f"{method} got no answer: {fault}.", "Call again.", self._last) from fault

    # -- what the SDK calls --------------------------------------------------------------------------------------

    async def on_connecting(self, ctx: ConnectingContext) -> None:
        """Before an attempt, drop the token, so that the SDK asks for a fresh one."""
        self.sdk.set_token("")
        if ctx.code >= _CLIENT_SIDE:
            self._last = from_close(ctx.code, ctx.reason) or self._last

    async def on_connected(self, ctx: ConnectedContext) -> None:
        """The connection is up."""
        self.client_id = ctx.client
        self._expired = 0
        self._token_failed = ""
        self._settled.set()

    async def on_error(self, ctx: ErrorContext) -> None:
        """After a failed attempt or another error, find out whether a retry can help."""
        if self._settled.is_set() and self.sdk.state.value == "connected":
            return
        self.sdk.set_token("")
        error = ctx.error
        if isinstance(error, TokenFailed):
            self._token_failed = str(error)
            return
        if isinstance(error, ReplyError):
            if error.code == _TOKEN_EXPIRED:
                self._expired += 1
                if self._expired >= EXPIRED_TRIES:
                    await self._stop(await self._explained("token_expired", "The token has expired.", 3500))
            return
        refusal = await reason_of(error, self._preflight)
        if refusal is None:
            return
        self._last = refusal
        if refusal.final:
            await self._stop(refusal)
        elif refusal.retry_after_s:
            await self._pause(refusal.retry_after_s)

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        """The connection ended for good, by us or by the gateway."""
        if self._failure is None and not self._closing.is_set():
            if self._credentials.signed_out is not None:
                why = self._credentials.signed_out
                self._failed(Refused("auth_required", why, "Sign in, then connect again.", close=3500))
            else:
                said = from_close(ctx.code, ctx.reason)
                code, detail = (said.code, said.detail) if said else ("disconnected", ctx.reason or "Closed.")
                self._failed(await self._explained(code, detail, ctx.code))

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        """Handle a notice on the user's own channel."""
        if self._on_notice is not None and isinstance(ctx.pub.data, dict):
            self._on_notice(ctx.pub.data)

    # -- inside --------------------------------------------------------------------------------------------------

    async def _explained(self, code: str, detail: str, close: int) -> Refused:
        """A final close with its remedy from preflight, because a remedy does not fit into a close reason."""
        verdict = await self._preflight.ask() if close >= _CLIENT_SIDE else False
        if isinstance(verdict, Refused) and verdict.code == code:
            return verdict
        return Refused(code, detail, close=close)

    async def _verdict(self) -> None:
        """Wait for the reason why the SDK gave the connection up: it comes one preflight later."""
        if self.sdk.state.value == "disconnected" and not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._ended.wait()

    async def _stop(self, refusal: Refused) -> None:
        self._failed(refusal)
        await self.sdk.disconnect()

    def _failed(self, refusal: Refused) -> None:
        self._failure = refusal
        self._ended.set()
        for feed in self._feeds.values():
            feed.fail(refusal)
        self._settled.set()

    async def _pause(self, seconds: float) -> None:
        """Wait before the SDK may retry; the SDK awaits this and adds its own back-off."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _gave_up(self) -> Unreachable:
        last = self._last
        seconds = f"{self._connect_timeout_s:g} s"
        if self._token_failed:
            remedy = "Fix get_token; let it raise SignedOut when no user is signed in."
            return Unreachable(f"get_token gave no token for {seconds}: {self._token_failed}.", remedy, last)
        if last is None:
            remedy = (
                f"Check that the gateway runs; `narthex doctor {shlex.quote(self._url)}` finds the cause."
            )
            return Unreachable(f"{self._url} did not answer within {seconds}.", remedy)
        return Unreachable(f"{last.detail} (for {seconds})", last.remedy, last)

    async def _feed(self, thread_id: str) -> ThreadFeed:
        # Wait until an earlier feed of the thread has closed: the SDK allows one subscription per channel.
        while (leaving := self._leaving.get(thread_id)) is not None:
            await asyncio.shield(leaving)
        # There is no await from here to the claim, so that a second call for the thread finds this call's feed.
        feed = self._feeds.pop(thread_id, None)
        if feed is None:
            feed = ThreadFeed(self.sdk, thread_id, self._connect_timeout_s, self._has_ended)
        self._feeds[thread_id] = feed  # at the end: the least recently used is first
        async with feed.claiming():
            self._make_room()
            try:
                await feed.ready()
            except TimeoutError as fault:
                await self._verdict()
                if self._failure is not None:
                    raise self._failure from None
                raise self._gave_up() from fault
            except BaseException:
                if self._failure is not None:
                    raise self._failure from None
                raise
        return feed

    def _make_room(self) -> None:
        """Unsubscribe from the threads that were idle longest, so that at most `MAX_IDLE_FEEDS` stay."""
        idle = [thread_id for thread_id, feed in self._feeds.items() if feed.idle]
        for thread_id in idle[: max(0, len(idle) - MAX_IDLE_FEEDS + 1)]:
            self._leaving[thread_id] = asyncio.create_task(self._leave(thread_id, self._feeds.pop(thread_id)))

    async def _leave(self, thread_id: str, feed: ThreadFeed) -> None:
        try:
            await feed.close(
                Refused("disconnected", "This client no longer follows the thread.", "Follow the run again.")
            )
        except CentrifugeError:
            pass  # the connection broke, and the subscription ended with it
        finally:
            del self._leaving[thread_id]

    async def _has_ended(self, run_id: str) -> bool:
        """Whether the gateway says that a run is over; False when it cannot answer now."""
        try:
            answer = await self.rpc("run.get", {"run_id": run_id})
        except (ClientError, DependencyError):
            return False
        return answer.get("state") in ENDED

    async def _over(self, answer: Mapping[str, Any]) -> bool:
        state = await self.rpc("run.get", {"run_id": answer["run_id"]}, repeat=True)
        return state.get("state") in ENDED

    async def _followed(self, answer: Mapping[str, Any], *, over: bool) -> Run:
        feed = await self._feed(answer["thread_id"])
        return feed.follow(self._run(answer), from_history=True, over=over)

    def _run(self, answer: Mapping[str, Any]) -> Run:
        return Run(
            self,
            answer["run_id"],
            answer["thread_id"],
            answer.get("message_id", ""),
            queued=bool(answer.get("queued")),
        )


def _numbered(error: ReplyError) -> ClientError:
    """A reply error as a ClientError: the gateway's message is `code: message remedy`."""
    said = from_close(3000, error.message)
    if said is None:
        return ClientError("rpc_error", error.message, number=error.code)
    return ClientError(said.code, said.detail, number=error.code)
