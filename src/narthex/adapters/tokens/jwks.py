"""Keys from an issuer's key set over HTTP: cached, refreshed in the background, never blocked on twice.

Not here: finding the key set's address (`oidc.py`), the exchange itself (`fetching.py`). Rules
(docs/design.md#admission): one fetch at a time; an unknown `kid` may ask for one, then there is a cool-down of 30 s per
issuer during which an unknown `kid` is `Unavailable`; keys serve on for 24 h when the issuer does not answer; a key set
that cannot be used never replaces one that can; the cache belongs to one issuer, so a `kid` means nothing to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final

from narthex.adapters.tokens.compact import Compact
from narthex.adapters.tokens.fetching import DocumentFault, Fetcher
from narthex.adapters.tokens.keys import KeyTable, UnusableKey, keys_from_jwks
from narthex.adapters.tokens.verification import BAD_SIGNATURE, IssuerRules, verify_token
from narthex.app.tasks import end_tasks, retrieve_error
from narthex.domain.verdict import Rejected, Unavailable, Verdict
from narthex.errors import Bug, DependencyError, NarthexError
from narthex.ports.breaker import Breakers
from narthex.ports.later import Later
from narthex.ports.telemetry import Reading
from narthex.ports.tokens import VerifierStatus

UNKNOWN_KEY_COOL_DOWN_S: Final = 30.0
FAILED_PAUSE_S: Final = 1.0  # after a failed fetch; the breaker lengthens it when failures go on
CLIENT_WAIT_S: Final = 1.5  # a client gets 503 within 2 s, while the fetch goes on for the next one
STALE_S: Final = 24 * 3_600.0
REFRESH_S: Final = 300.0  # unless Cache-Control says otherwise, within the bounds below
MIN_REFRESH_S: Final = 60.0
MAX_REFRESH_S: Final = 3_600.0
RETRY_CAP_S: Final = 5.0  # in the background after a failure, with full jitter: recovery within 10 s
_MAX_AGE: Final = re.compile(r"\bmax-age=(\d{1,9})")

KeySetAddress = Callable[[], Awaitable[str]]


class JwksKeys:
    """A `KeySource` of one issuer's published keys.

    Args:
        name: for breakers, health and logs.
        address: gives the key set's URL (a constant, or by discovery).
        rules: the issuer's.
        fetcher: shared HTTP client.
        breakers: by traffic class.
        clock: monotonic seconds.
        on_fault: told why a fetch was of no use; for the log.
    """

    def __init__(
        self,
        name: str,
        address: KeySetAddress,
        rules: IssuerRules,
        *,
        fetcher: Fetcher,
        breakers: Breakers,
        clock: Callable[[], float] = time.monotonic,
        on_fault: Callable[[str, NarthexError], None] = lambda _name, _fault: None,
    ) -> None:
        self._name = name
        self.issuers = (rules.claims.issuer,) if rules.claims.issuer else ()
        self._address = address
        self._rules = rules
        self._fetcher = fetcher
        self._breakers = breakers
        self._clock = clock
        self._on_fault = on_fault
        self._table = KeyTable(())
        self._fetched_at: float | None = None
        self._fetches = {"ok": 0, "failed": 0}
        self._asked_at: float | None = None  # when an unknown key last made us ask, successfully
        self._failed_at: float | None = None
        self._fault = "not fetched yet"
        self._refresh_s = REFRESH_S
        self._latency_s = 0.0
        self._flight: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None
        self._first = asyncio.Event()  # the first fetch has ended, one way or the other

    @property
    def dependency(self) -> str:
        """The breaker's name."""
        return f"jwks:{self._name}"

    def knows(self, algorithm: str, kid: str) -> bool:
        """Whether a cached key serves that algorithm and name."""
        return bool(self._usable().select(algorithm, kid))

    def verify(self, token: Compact, *, now: float, traffic: str) -> Later[Verdict]:
        """The verdict at once when a cached key settles it, else after asking the issuer, where that is due."""
        verdict = verify_token(token, self._usable(), self._rules, now)
        if not isinstance(verdict, Rejected) or not self._may_be_new(token, verdict):
            return verdict
        wait_s = self._cool_down()
        if self._flight is None and wait_s > 0:
            if verdict.code == "token_invalid" and self._asked_at is not None:
                return verdict  # the set is less than the cool-down old, and the token fits none of its keys
            return Unavailable(f"{self._name}: {self._fault or 'asked a moment ago'}", max(1, round(wait_s)))
        return self._verify_after_fetch(token, now, traffic)

    def _may_be_new(self, token: Compact, verdict: Rejected) -> bool:
        """Whether a fresher key set could change the verdict."""
        if verdict.code == "unknown_key":
            return True
        # an issuer that names no keys rotates under the same (empty) name
        return verdict.code == "token_invalid" and not token.key_id and verdict.detail == BAD_SIGNATURE

    def _usable(self) -> KeyTable:
        if self._fetched_at is not None and self._clock() - self._fetched_at > STALE_S:
            return _EMPTY
        return self._table

    def _cool_down(self) -> float:
        """Seconds until an unknown key may ask again; ≤ 0: now."""
        now = self._clock()
        asked = -1.0 if self._asked_at is None else self._asked_at + UNKNOWN_KEY_COOL_DOWN_S - now
        failed = -1.0 if self._failed_at is None else self._failed_at + FAILED_PAUSE_S - now
        return max(asked, failed)

    async def _verify_after_fetch(self, token: Compact, now: float, traffic: str) -> Verdict:
        flight = self._take_off(self._ask(traffic))
        try:
            # shielded: a fetch that one client no longer waits for still serves the others
            async with asyncio.timeout(CLIENT_WAIT_S):
                await asyncio.shield(flight)
        except TimeoutError:
            return Unavailable(f"{self._name}: the key set takes longer than {CLIENT_WAIT_S:g} s", 2)
        except DependencyError as error:
            return Unavailable(f"{self._name}: {error.message}", max(1, round(error.retry_after_s)))
        except DocumentFault as error:
            return Unavailable(f"{self._name}: {error.message}", 5)
        return verify_token(token, self._usable(), self._rules, now)

    def _take_off(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The fetch under way, or a new one that does `work`."""
        if self._flight is not None:
            work.close()
            return self._flight
        self._flight = asyncio.get_running_loop().create_task(work)
        self._flight.add_done_callback(self._landed)
        return self._flight

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._flight = None
        self._first.set()
        retrieve_error(task)  # the waiting clients have it, and `_fetch` has recorded it

    async def _ask(self, traffic: str) -> None:
        """A fetch that a client's unknown key asked for, through its traffic's breaker."""
        await self._breakers.get(self.dependency, traffic).call(self._fetch)
        self._asked_at = self._clock()

    async def _fetch(self) -> None:
        began = self._clock()
        try:
            document, cache_control = await self._fetcher.get_json(await self._address())
            keys, skipped = keys_from_jwks(document, allow_symmetric=False)
        except UnusableKey as error:
            raise self._failed(DocumentFault(str(error))) from error
        except (DependencyError, DocumentFault) as error:
            raise self._failed(error) from error
        self._table = KeyTable(keys)
        self._fetched_at = self._clock()
        self._fetches["ok"] += 1
        self._latency_s = self._fetched_at - began
        self._failed_at = None
        self._fault = ""
        age = _MAX_AGE.search(cache_control)
        self._refresh_s = min(max(float(age[1]), MIN_REFRESH_S), MAX_REFRESH_S) if age else REFRESH_S
        if skipped:
            self._on_fault(self._name, DocumentFault(f"{len(skipped)} key(s) left out: {skipped[0]}"))

    def _failed(self, error: DependencyError | DocumentFault) -> DependencyError | DocumentFault:
        self._failed_at = self._clock()
        self._fetches["failed"] += 1
        self._fault = error.message
        self._on_fault(self._name, error)
        return error

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Fetch once, waiting no longer than a client would, then keep refreshing. Never raises for the issuer."""
        if self._background is None:
            self._background = asyncio.get_running_loop().create_task(self._keep_fresh())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLIENT_WAIT_S):
                await self._first.wait()

    async def stop(self) -> None:
        """End the refreshing."""
        await end_tasks(self._background, self._flight)
        self._background = self._flight = None

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            try:
                await asyncio.shield(self._take_off(self._refresh()))
                failures = 0
            except (DependencyError, DocumentFault):
                failures += 1
            except (
                Exception
            ) as error:  # the refreshing must outlive a bug, or the keys end tomorrow without a word
                failures += 1
                fault = Bug("key_refresh", f"{type(error).__name__} while reading a key set.")
                self._on_fault(self._name, fault)
            if failures:
                # full jitter, so that instances that lost the issuer together do not return together
                pause_s = random.uniform(0.2, min(RETRY_CAP_S, 2.0**failures))  # noqa: S311 - spreads load only
            else:
                pause_s = self._refresh_s * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load only
            await asyncio.sleep(pause_s)

    async def _refresh(self) -> None:
        """In the background; it is the probe of a breaker that is not closed, so that one heals unasked."""
        for traffic, state in self._breakers.states(self.dependency).items():
            if state != "closed":
                await self._breakers.get(self.dependency, traffic).call(self._fetch)
                return
        await self._fetch()

    def readings(self) -> Iterable[Reading]:
        """The age and the end of its keys, for the metrics."""
        fetched_at = self._fetched_at
        at = 0.0 if fetched_at is None else time.time() - (self._clock() - fetched_at)
        yield "keys_fetched_timestamp_seconds", (self._name,), at
        for result, count in self._fetches.items():
            yield "key_fetches", (self._name, result), count
        yield from self._table.readings(self._name)

    async def check(self) -> VerifierStatus:
        """Healthy with fresh keys; degraded while the issuer fails, also as long as the old keys serve."""
        states = {
            f"{self._name}/{key}": state for key, state in self._breakers.states(self.dependency).items()
        }
        age = None if self._fetched_at is None else self._clock() - self._fetched_at
        open_for = [traffic for traffic, state in states.items() if state != "closed"]
        good = age is not None and age <= STALE_S and not self._fault and not open_for
        have = "no keys" if age is None or age > STALE_S else f"{len(self._table)} key(s), {age:.0f} s old"
        return VerifierStatus(
            status="healthy" if good else "degraded",
            detail=f"{self._name}: {have}"
            + (f"; {self._fault}" if self._fault else "")
            + (f"; breaker not closed for {', '.join(open_for)}" if open_for else ""),
            latency_ms=self._latency_s * 1000,
            breakers=states,
        )


_EMPTY: Final = KeyTable(())


def constant_address(url: str) -> KeySetAddress:
    """A key set's URL from settings."""

    async def address() -> str:
        return url

    return address
