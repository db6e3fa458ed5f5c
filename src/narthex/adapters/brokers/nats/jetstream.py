"""Makes the few calls to NATS and JetStream that the broker needs, and classifies their errors.

Not here: channels, and retries, which are the callers'. Rules: every call has a time-out; `JetStreamUnavailable` means
"the outcome is unknown, try again", `Conflict` means that the log has grown meanwhile; the stream's leader answers
reads on which a decision depends.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from narthex.adapters.brokers.nats.codec import decode_batch
from narthex.errors import DISK_FULL, ENGINE_HUNG

REQUEST_S: Final = 2.0  # a leader answers in milliseconds; one that takes longer is being replaced
FIRST_BATCH_MESSAGES: Final = 64  # most pages are short
BATCH_MESSAGES: Final = 500
BATCH_BYTES: Final = 4 << 20
SUBJECTS_AT_ONCE: Final = 1_000  # a server answers for 1,024 at most

_WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
_NOT_FOUND: Final = frozenset({10059})  # stream
_NO_MESSAGE: Final = frozenset({10037})
_NO_ROOM: Final = frozenset({10002, 10023, 10047})  # the account's or the server's storage limit is reached
NO_REPLICAS: Final = frozenset({10005, 10074})


class JetStreamUnavailable(Exception):
    """JetStream did not answer, or cannot answer now; `sign` is that of `DependencyError`."""

    def __init__(self, text: str, sign: str = "") -> None:
        super().__init__(text)
        self.sign = sign


class Conflict(Exception):
    """The subject's last message is not the expected one; `last` is its sequence, 0: unknown."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        number = text.rpartition(" ")[2]
        self.last = int(number) if number.isdigit() else 0


class StreamMissing(Exception):
    """The stream does not exist (any more)."""


class RequestRejected(Exception):
    """JetStream refused for good; `code` is its error code, `sign` that of `DependencyError`."""

    def __init__(self, code: int, text: str, sign: str = "") -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.sign = sign


class Stored(NamedTuple):
    """A message of the stream; `subject` where the answer named it."""

    seq: int
    body: bytes
    subject: str = ""


class Latest(NamedTuple):
    """Last messages of subjects, from a replica that had applied everything up to sequence `through`."""

    found: list[Stored]
    through: int


class JetStream:
    """One stream behind a connection. Every call gets the client from `client`, because a reconnect replaces it."""

    def __init__(self, client: Callable[[], Client], stream: str) -> None:
        self._client = client
        self.stream = stream
        self._collectors: dict[str, _Collector] = {}
        self._inbox = ""
        self._serial = 0

    async def listen(self) -> None:
        """Subscribe to answers of many messages; once per connection."""
        client = self._client()
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._collect)

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call `$JS.API.<name>`."""
        return _checked(await self._request(f"$JS.API.{name}", msgspec.json.encode(body or {}), None))

    async def publish(self, subject: str, body: bytes, *, expected: int | None, rollup: bool = False) -> int:
        """Append a message; returns its sequence once it is stored.

        Args:
            subject: the subject.
            body: at most the server's `max_payload`.
            expected: sequence of the last message of the subject, 0 for none; None: no check.
            rollup: drop all earlier messages of the subject in the same step.
        """
        headers = {}
        if expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        if rollup:
            headers["Nats-Rollup"] = "sub"
        answer = _checked(await self._request(subject, body, headers))
        return int(answer["seq"])

    async def last(self, subject: str) -> Stored | None:
        """The last message of a subject, from the leader."""
        return await self._get({"last_by_subj": subject})

    async def next(self, subject: str, seq: int) -> Stored | None:
        """The first message of a subject at or after `seq`, from the leader."""
        return await self._get({"seq": seq, "next_by_subj": subject})

    async def between(
        self, subject: str, seq: int, last: int, enough: int | None = None, offset: int = 0
    ) -> list[Stored]:
        """The messages of a subject from `seq` to `last`, which is the sequence of one of them.

        Any replica may answer, and one that lags behind gives fewer: the leader then gives the rest.

        Args:
            subject: the subject.
            seq: the first sequence.
            last: the last sequence.
            enough: stop after this many publications at or after `offset`.
            offset: see `enough`.
        """
        found: list[Stored] = []
        size = FIRST_BATCH_MESSAGES
        while seq <= last and (enough is None or enough > 0):
            answer = await self._direct(
                {"seq": seq, "next_by_subj": subject, "batch": size, "max_bytes": BATCH_BYTES}
            )
            size = BATCH_MESSAGES
            part = [message for message in answer.found if message.seq <= last]
            if not part:
                message = await self.next(subject, seq)
                if message is None or message.seq > last:
                    break
                part = [message]
            found += part
            seq = part[-1].seq + 1
            if enough is not None:
                tops = (decode_batch(message.body) for message in part)
                enough -= sum(max(0, batch.top - max(batch.first, offset) + 1) for batch in tops)
        return found

    async def latest_of_each(self, filter_subject: str) -> list[Stored]:
        """The last message of every subject that matches, from any replica; at most 1,024 subjects."""
        return (await self._direct({"multi_last": [filter_subject], "batch": 1024})).found

    async def latest_after(self, subjects: Sequence[str], seq: int) -> Latest:
        """The last message of each subject that has one after `seq`.

        Any replica answers. The caller must check `through` for the sequence that the answer has to cover.

        Args:
            subjects: at most `SUBJECTS_AT_ONCE`.
            seq: of the stream.
        """
        return await self._direct({"multi_last": subjects, "seq": seq + 1, "batch": 1024})

    async def _get(self, body: dict[str, Any]) -> Stored | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{self.stream}", body)
        except RequestRejected as refused:
            if refused.code in _NO_MESSAGE:
                return None
            raise
        message = answer["message"]
        return Stored(int(message["seq"]), base64.b64decode(message.get("data", "")))

    async def _request(self, subject: str, body: bytes, headers: dict[str, str] | None) -> Msg:
        try:
            return await self._client().request(subject, body, timeout=REQUEST_S, headers=headers)
        except (NatsError, OSError, TimeoutError) as error:
            sign = ENGINE_HUNG if isinstance(error, TimeoutError) else ""
            raise JetStreamUnavailable(f"{type(error).__name__}: {error}", sign) from error

    async def _direct(self, body: dict[str, Any]) -> Latest:
        """A direct get of many messages, which arrive one by one with an end mark."""
        self._serial += 1
        name = str(self._serial)
        collector = self._collectors[name] = _Collector()
        try:
            await self._client().publish(
                f"$JS.API.DIRECT.GET.{self.stream}", msgspec.json.encode(body), reply=f"{self._inbox}.{name}"
            )
            async with asyncio.timeout(REQUEST_S) as limit:
                collector.progress = lambda: limit.reschedule(asyncio.get_running_loop().time() + REQUEST_S)
                return await collector.done
        except (NatsError, OSError, TimeoutError) as error:
            raise JetStreamUnavailable(f"direct get: {type(error).__name__}: {error}") from error
        finally:
            del self._collectors[name]

    async def _collect(self, message: Msg) -> None:
        collector = self._collectors.get(message.subject.rpartition(".")[2])
        if collector is not None:
            collector.take(message)


class _Collector:
    """Gathers the messages of one direct get."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Latest] = asyncio.get_running_loop().create_future()
        self.progress: Callable[[], None] = lambda: None
        self._found: list[Stored] = []

    def take(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        if self.done.done():
            return
        if status in ("204", "404"):
            self.done.set_result(Latest(self._found, int(headers.get("Nats-UpTo-Sequence", 0))))
        elif status:
            self.done.set_exception(
                JetStreamUnavailable(f"direct get answered {status} {headers.get('Description', '')}")
            )
        else:
            self._found.append(
                Stored(int(headers["Nats-Sequence"]), message.data, headers.get("Nats-Subject", ""))
            )
            self.progress()


def _checked(message: Msg) -> dict[str, Any]:
    """The JSON of an answer. Raises the exception for its error."""
    try:
        answer: dict[str, Any] = msgspec.json.decode(message.data, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise JetStreamUnavailable("JetStream answered with something that is not JSON") from error
    fault = answer.get("error")
    if fault is None:
        return answer
    number, text = int(fault.get("err_code", 0)), str(fault.get("description", ""))
    if number in _WRONG_LAST_SEQUENCE:
        raise Conflict(text)
    if number in _NOT_FOUND:
        raise StreamMissing(text)
    sign = DISK_FULL if number in _NO_ROOM or "no space left" in text else ""
    if int(fault.get("code", 0)) >= 500 and number not in NO_REPLICAS:
        raise JetStreamUnavailable(f"{text} ({number})", sign)
    raise RequestRejected(number, text, sign)
