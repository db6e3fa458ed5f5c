"""Connecting: a refusal stops with its reason, a temporary one is retried, each attempt has a fresh token."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from narthex import client
from narthex.client.handshake import preflight_url
from narthex.client.refusals import from_close, from_problem
from narthex.domain.refusals import HTTP_ONLY_CLOSES, TABLE
from narthex.errors import ClientError
from tests.client.scripted import Scripted, problem, scripted, until
from tests.timing import within


def tokens() -> Iterator[str]:
    """t1, t2, t3 …"""
    n = 0
    while True:
        n += 1
        yield f"t{n}"


async def refused(server: Scripted, **options: object) -> client.Refused:
    """Connect to a server that refuses; returns the error."""
    with pytest.raises(client.Refused) as caught:
        async with client.connect(server.url, use_proxy=False, **options):  # type: ignore[arg-type]  # tests mix
            pass
    return caught.value


async def test_a_refused_handshake_is_one_attempt_and_says_why() -> None:
    """401: code, detail and remedy of the gateway's own answer; no second attempt, no preflight needed."""
    async with scripted() as server:
        server.verdicts = [(401, problem("token_revoked", 401, trace_id="abc"), {})]
        error = await refused(server, get_token=lambda: "t")
        assert (error.code, error.detail, error.remedy) == (
            "token_revoked",
            "detail of token_revoked",
            "remedy of token_revoked",
        )
        assert (error.status, error.close, error.trace_id, error.final) == (401, 3500, "abc", True)
        assert server.upgrades == ["Bearer t"]
        assert server.preflights == []


async def test_a_refusal_without_words_is_asked_from_preflight() -> None:
    """A proxy dropped the body of the refusal: preflight gives the same verdict with its text."""
    async with scripted() as server:
        server.verdicts = [(403, b"<html>Forbidden</html>", {})]
        server.preflight = (403, problem("origin_not_allowed", 403), {})
        error = await refused(server, get_token=lambda: "t")
        assert (error.code, error.remedy, error.close) == (
            "origin_not_allowed",
            "remedy of origin_not_allowed",
            3507,
        )
        assert (server.upgrades, server.preflights) == (["Bearer t"], ["Bearer t"])


async def test_not_now_is_waited_out_and_each_attempt_brings_a_fresh_token() -> None:
    """503 with Retry-After: the client retries, not earlier than that, with another token."""
    async with scripted() as server:
        server.verdicts = [(503, problem("starting", 503), {"Retry-After": "1"}), None]
        source = tokens()
        began = time.monotonic()
        async with client.connect(server.url, get_token=lambda: next(source), use_proxy=False) as gateway:
            assert gateway.client_id == "c1"
        assert time.monotonic() - began >= 1.0
        assert server.upgrades == ["Bearer t1", "Bearer t2"]


async def test_not_now_for_ever_ends_at_the_time_out_with_the_last_reason() -> None:
    """The time is limited: Unreachable has the gateway's last reason."""
    async with scripted() as server:
        server.verdicts = [(503, problem("auth_unavailable", 503), {"Retry-After": "30"})]
        with pytest.raises(client.Unreachable) as caught:
            async with client.connect(server.url, connect_timeout_s=0.3, use_proxy=False):
                pass
        assert caught.value.last is not None
        assert caught.value.last.code == "auth_unavailable"
        assert caught.value.remedy == "remedy of auth_unavailable"


async def test_nothing_there_is_unreachable() -> None:
    """A closed port: Unreachable, with the command that finds the cause."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{held.getsockname()[1]}/ws"
        with pytest.raises(client.Unreachable, match="narthex doctor"):
            async with client.connect(url, connect_timeout_s=0.3, use_proxy=False):
                pass


async def test_a_proxy_that_blocks_the_upgrade_is_named() -> None:
    """Preflight admits, and a proxy refuses the upgrade."""
    async with scripted() as server:
        server.verdicts = [(404, b"not found", {})]
        with pytest.raises(client.Unreachable, match="does not reach it") as caught:
            async with client.connect(server.url, connect_timeout_s=0.3, use_proxy=False):
                pass
        assert caught.value.last is not None
        assert caught.value.last.code == "handshake_blocked"


async def test_a_final_close_after_the_upgrade_carries_its_reason() -> None:
    """3500 with `code: text`; the remedy, which does not fit into it, is preflight's."""
    async with scripted() as server:
        server.on_connect = lambda _: (3500, "token_revoked: The token was revoked")
        server.preflight = (401, problem("token_revoked", 401), {})
        error = await refused(server, get_token=lambda: "t")
        assert (error.code, error.remedy) == ("token_revoked", "remedy of token_revoked")
        assert len(server.upgrades) == 1


async def test_a_token_source_without_a_fresh_token_is_stopped() -> None:
    """Error 109 is answered with one more token; a second stale token ends it."""
    async with scripted() as server:
        server.on_connect = lambda _: {"code": 109, "message": "token expired"}
        source = tokens()
        error = await refused(server, get_token=lambda: next(source))
        assert error.code == "token_expired"
        assert server.upgrades == ["Bearer t1", "Bearer t2"]


async def test_signed_out_stops_before_anything_is_sent() -> None:
    """No user to get a token for: refused as `auth_required`, without a request."""

    def nobody() -> str:
        raise client.SignedOut("The session has ended.")

    async with scripted() as server:
        error = await refused(server, get_token=nobody)
        assert (error.code, error.detail) == ("auth_required", "The session has ended.")
        assert server.upgrades == []


async def test_a_token_source_may_be_awaited_and_may_fail_once() -> None:
    """A token endpoint that fails once is asked again."""
    calls = 0

    async def source() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 1:
            raise OSError("token endpoint away")
        return "fresh"

    async with scripted() as server, client.connect(server.url, get_token=source, use_proxy=False):
        assert server.upgrades == ["Bearer fresh"]


async def test_a_token_source_that_raises_does_not_end_the_client() -> None:
    """Where nothing is upgraded without a credential, preflight of an attempt without a token would be a final 401."""
    calls = 0

    def source() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("the token endpoint answered HTML")
        return "fresh"

    async with scripted() as server:
        server.preflight = (401, problem("auth_required", 401), {})
        async with client.connect(server.url, get_token=source, use_proxy=False):
            assert server.upgrades == ["Bearer fresh"]
        assert server.preflights == []


async def test_a_token_source_that_never_gives_one_is_named() -> None:
    """The time-out's error has get_token's exception, not "the gateway cannot be reached"."""

    def source() -> str:
        raise RuntimeError("no keyring here")

    async with scripted() as server:
        with pytest.raises(client.Unreachable, match="RuntimeError: no keyring here"):
            async with client.connect(
                server.url, get_token=source, connect_timeout_s=within(0.5), use_proxy=False
            ):
                pass
        assert server.upgrades == []


async def test_a_call_during_an_outage_takes_no_longer_than_it_may() -> None:
    """`connect_timeout_s` covers all the repeats together, and a thread's subscription."""
    async with scripted() as server:
        patience = within(0.5)
        async with client.connect(server.url, connect_timeout_s=patience, use_proxy=False) as gateway:
            server.verdicts = [(503, problem("starting", 503), {})]
            server.cut()
            await until(lambda: gateway.sdk.state.value != "connected")
            for call in (
                gateway.rpc("whoami", repeat=True),
                gateway.follow_run("r"),
                gateway.start_run("hi", thread_id="t"),
            ):
                began = time.monotonic()
                with pytest.raises(client.Unreachable):
                    await call
                assert time.monotonic() - began < 2 * patience


async def test_own_headers_travel_with_handshake_and_preflight() -> None:
    """For example the end-to-end key; without a token no Authorization header is sent."""
    async with scripted() as server:
        server.verdicts = [(403, b"", {})]
        server.preflight = (401, problem("e2e_key_wrong", 401), {})
        error = await refused(server, headers={"X-E2E-Bypass-Key": "k"})
        assert error.code == "e2e_key_wrong"
        assert server.keys == ["k", "k"]
        assert server.upgrades == server.preflights == [""]


async def test_an_rpc_error_is_ours() -> None:
    """`code: message remedy` of the gateway becomes code and message; the number stays."""
    async with scripted() as server:

        async def full(_: dict[str, object]) -> dict[str, object]:
            return {"error": {"code": 429, "message": "too_many_runs: Five runs are going. Wait for one."}}

        server.rpc["run.start"] = full
        async with client.connect(server.url, use_proxy=False) as gateway:
            with pytest.raises(ClientError) as caught:
                await gateway.start_run("hi")
        assert (caught.value.code, caught.value.number) == ("too_many_runs", 429)


async def test_a_final_close_later_reaches_whoever_calls() -> None:
    """Revoked while connected: the next call raises the reason."""
    async with scripted() as server, client.connect(server.url, use_proxy=False) as gateway:
        server.preflight = (401, problem("token_revoked", 401), {})
        for connection in list(server.connections):
            await connection.close(3500, "token_revoked: gone")
        await until(lambda: bool(server.preflights))
        with pytest.raises(client.Refused) as caught:
            await gateway.rpc("whoami")
        assert caught.value.code == "token_revoked"


async def test_a_call_waits_for_the_words_of_a_final_close() -> None:
    """The SDK gives up at once, the reason arrives a preflight later: "call again" would be wrong advice."""
    async with scripted() as server, client.connect(server.url, use_proxy=False) as gateway:
        asked, answered = asyncio.Event(), asyncio.Event()

        async def slow() -> bool:
            asked.set()
            await answered.wait()
            return False

        gateway._preflight.ask = slow  # type: ignore[method-assign]  # a preflight that takes its time
        for connection in list(server.connections):
            await connection.close(3500, "token_revoked: gone")
        await asked.wait()
        call = asyncio.create_task(gateway.rpc("whoami"))
        done, _ = await asyncio.wait([call], timeout=0.05)
        assert not done
        answered.set()
        with pytest.raises(client.Refused) as caught:
            await call
        assert caught.value.code == "token_revoked"


def test_close_codes_agree_with_the_table_of_refusals() -> None:
    """The client knows the gateway's close codes, so that it knows which refusals are final."""
    for code, row in TABLE.items():
        if row.http is None or row.close is None or code == "internal":
            continue
        said = from_problem(row.http, problem(code, row.http), None)
        assert said is not None, code
        assert said.close == row.close, code
    for code in HTTP_ONLY_CLOSES:
        said = from_problem(TABLE[code].http or 0, problem(code, TABLE[code].http or 0), None)
        assert said is not None
        assert said.final
    newer = from_problem(429, problem("a_code_of_next_year", 429), None)
    assert newer is not None
    assert not newer.final
    assert from_problem(404, problem("not_found", 404), None) is None  # an ingress without a backend


def test_what_is_no_refusal_of_a_gateway_is_none() -> None:
    """A proxy's page, other JSON, a close without a reason."""
    assert from_problem(403, b"<html>", None) is None
    assert from_problem(401, b'{"error": "x"}', None) is None
    assert from_problem(401, b"[]", None) is None
    assert from_problem(500, problem("internal", 500), None) is None
    assert from_close(3500, "bye") is None
    assert from_close(1000, "token_expired: x") is None


def test_retry_after_is_read_and_bounded() -> None:
    """Whole seconds, at most a minute; dates and invalid values are ignored."""

    def read(value: str | None) -> float | None:
        said = from_problem(503, problem("starting", 503), value)
        assert said is not None
        return said.retry_after_s

    assert [read("3"), read("99999"), read("Mon, 01 Jan"), read(None)] == [3.0, 60.0, None, None]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://h:1/ws", "http://h:1/ws/preflight"),
        ("wss://h/chat/connection/websocket", "https://h/chat/ws/preflight"),
        ("wss://h/websocket/?ticket=secret", "https://h/ws/preflight"),
    ],
)
def test_preflight_stands_beside_the_endpoint(url: str, expected: str) -> None:
    """Whatever alias the endpoint has; a query (it may contain a ticket) is left out."""
    assert preflight_url(url) == expected


def test_the_type_of_a_connection_has_a_public_name() -> None:
    """`narthex.client.Gateway`, for annotations, is what `connect` returns; other names do not exist."""
    assert type(client.connect("ws://127.0.0.1:1/ws")) is client.Gateway
    assert not hasattr(client, "Gate")
