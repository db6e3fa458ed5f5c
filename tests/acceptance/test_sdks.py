"""Every SDK that runs here against the real program, one suite for all: Java, Go, Python and JavaScript, in JSON and
protobuf.

Swift and Dart, whose toolchains are not here: tests/protocol/test_swift_and_dart.py. CENTRIFUGE_JAVA names a checkout
of a newer Java SDK than the release that Maven gets, which has no deltas.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.acceptance.program import Program, running, shared
from tests.acceptance.sdks.driving import COMMANDS, JAVA_CHECKOUT, Sdk, SdkError, sdk
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

ADMIN_KEY = "an admin key of this test, thirty-two long"
SECRET = "the secret of this test's tokens, which is long"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    env = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_JWT_SECRET": SECRET}
    with shared(tmp_path_factory.mktemp("gateway"), env) as found:
        yield found


@pytest.fixture(params=list(COMMANDS))
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Sdk]:
    async with sdk(request.param) as found:
        yield found


def token(subject: str, ttl_s: float = 3_600.0) -> str:
    now = time.time()
    return jwt.encode({"sub": subject, "iat": now, "exp": now + ttl_s}, SECRET, "HS256")


def bearer(subject: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(subject)}"}


async def connected(client: Sdk, gateway: Program, subject: str) -> None:
    """Connected with the header that native SDKs send."""
    await client.call("connect", url=gateway.ws, headers=bearer(subject))
    await client.event("connected")


async def api(gateway: Program, route: str, **body: Any) -> None:
    """A call of the server API."""
    answer = await gateway.post(
        f"/api/v1/{route}", json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"}
    )
    assert answer.status_code == 200, answer.text


async def test_a_thread_is_followed(client: Sdk, gateway: Program, request: pytest.FixtureRequest) -> None:
    """Connect, RPC, subscribe, live events, presence, history, leave; every error has its published code."""
    subject = f"ada-{request.node.callspec.id}"
    await connected(client, gateway, subject)
    await client.event("server_subscribed", channel=f"user:{subject}")
    assert (await client.rpc("whoami"))["user"] == subject
    assert await client.rpc("echo", text="żółw 🐢") == {"text": "żółw 🐢"}
    thread = (await client.rpc("thread.create"))["thread_id"]
    channel = f"thread:{thread}"
    await client.call("subscribe", channel=channel)
    await client.event("subscribed", channel=channel)
    await client.rpc("run.start", text="echo hello there", thread_id=thread, client_message_id="m1")
    finished = await client.until(
        lambda: [event for event in client.of("publication") if event["data"]["type"] == "RUN_FINISHED"],
        "the run's end",
    )
    offsets = [event["offset"] for event in client.of("publication", channel=channel)]
    assert offsets == list(range(1, finished[0]["offset"] + 1))
    await client.event("server_publication", channel=f"user:{subject}")
    present = await client.call("presence", channel=channel)
    assert list(present.values()) == [subject]
    assert await client.call("presence_stats", channel=channel) == {"clients": 1, "users": 1}
    page = await client.call("history", channel=channel, limit=2)
    assert page["offsets"] == [1, 2]
    assert page["offset"] >= offsets[-1]
    for op, line, code in (
        ("rpc", {"method": "nothing", "data": {}}, 104),
        ("rpc", {"method": "run.get", "data": {"run_id": "none"}}, 404),
        ("publish", {"channel": channel, "data": {"x": 1}}, 103),
        ("presence", {"channel": "thread:elsewhere"}, 103),
        ("history", {"channel": "thread:elsewhere", "limit": 1}, 103),
    ):
        with pytest.raises(SdkError) as failed:
            await client.call(op, **line)
        assert (failed.value.code, failed.value.temporary) == (code, False), (op, line)
    await client.call("subscribe", channel="thread:elsewhere")
    assert (await client.event("unsubscribed", channel="thread:elsewhere"))["code"] == 103
    await client.call("unsubscribe", channel=channel)
    await client.event("unsubscribed", channel=channel)
    await client.call("disconnect")
    await client.event("disconnected")


async def test_nothing_is_lost_through_a_crash(
    request: pytest.FixtureRequest, client: Sdk, tmp_path: Path
) -> None:
    """After `kill -9` in mid-run the SDK reconnects by itself and recovers: every offset once, in order."""
    async with running(tmp_path, {"NARTHEX_JWT_SECRET": SECRET}) as gateway:
        await connected(client, gateway, "ada")
        thread = (await client.rpc("thread.create"))["thread_id"]
        channel = f"thread:{thread}"
        await client.call("subscribe", channel=channel)
        await client.event("subscribed", channel=channel)
        await client.rpc("run.start", text="count to 500", thread_id=thread, client_message_id="m1")
        await client.event("publication", 20)
        gateway.kill()
        await gateway.start()
        await client.event("connected", 2)
        again = await client.event("subscribed", 2, channel=channel)
        assert (again["was_recovering"], again["recovered"]) == (True, True)
        ended = await client.until(
            lambda: [event for event in client.of("publication") if event["data"]["type"] == "RUN_ERROR"],
            "the run's end",
        )
        assert ended[0]["data"]["code"] == "owner_lost"
        offsets = [event["offset"] for event in client.of("publication", channel=channel)]
        assert offsets == list(range(1, ended[0]["offset"] + 1))


WITH_DELTAS = [name for name in COMMANDS if name != "java" or JAVA_CHECKOUT]  # of Java from 0.4.2 on


@pytest.mark.parametrize("name", WITH_DELTAS)
async def test_deltas_are_applied_live_and_recovered(name: str, tmp_path: Path) -> None:
    """With `delta: fossil`, through a `kill -9` in mid-run: the SDK reports every publication once, as in the log."""
    async with running(tmp_path, {"NARTHEX_JWT_SECRET": SECRET}) as gateway, sdk(name) as client:
        await connected(client, gateway, "ada")
        thread = (await client.rpc("thread.create"))["thread_id"]
        channel = f"thread:{thread}"
        await client.call("subscribe", channel=channel, delta="fossil")
        await client.event("subscribed", channel=channel)
        await client.rpc("run.start", text="count to 200 żółw 🐢", thread_id=thread, client_message_id="m1")
        await client.event("publication", 20)
        gateway.kill()
        await gateway.start()
        again = await client.event("subscribed", 2, channel=channel)
        assert (again["was_recovering"], again["recovered"]) == (True, True)
        await client.until(
            lambda: [event for event in client.of("publication") if event["data"]["type"] == "RUN_ERROR"],
            "the run's end",
        )
        await client.rpc("typing", thread_id=thread)
        await client.rpc("run.start", text="echo 🐢 after", thread_id=thread, client_message_id="m2")
        ended = await client.until(
            lambda: [event for event in client.of("publication") if event["data"]["type"] == "RUN_FINISHED"],
            "the second run's end",
        )
        found = [event for event in client.of("publication", channel=channel) if event["offset"]]
        assert [event["offset"] for event in found] == list(range(1, ended[0]["offset"] + 1))
        async with sdk("js-json") as other:
            await connected(other, gateway, "ada")
            await other.call("subscribe", channel=channel, since={"offset": 0, "epoch": ""})
            await other.until(lambda: len(other.of("publication")) >= len(found), "the log")
            assert [event["data"] for event in found] == [event["data"] for event in other.of("publication")]
        if name.startswith("js-"):  # the one that counts
            counts = await client.call("delta_stats", channel=channel)
            assert counts["numDeltaPayloads"] > counts["numFullPayloads"]
            assert counts["bytesReceived"] < counts["bytesDecoded"] * 0.7


async def test_tokens_are_refreshed(client: Sdk, gateway: Program) -> None:
    """An expired token is asked for anew (109), and one that ends is refreshed on the live connection."""
    client.tell(n=0, op="connect", url=gateway.ws, token=token("grace", -60), get_token=True)
    await client.event("token_wanted")
    client.tell(op="token", token=token("grace", 3))
    await client.event("connected")
    first = (await client.rpc("whoami"))["expires_at"]
    await client.event("token_wanted", 2)
    client.tell(op="token", token=token("grace"))
    async with asyncio.timeout(within(10)):
        while (await client.rpc("whoami"))["expires_at"] < first + 1_000:  # noqa: ASYNC110 - SDKs announce no refresh
            await asyncio.sleep(0.1)
    assert len(client.of("connected")) == 1
    assert client.of("disconnected") == []


async def test_the_server_subscribes_and_unsubscribes(
    client: Sdk, gateway: Program, request: pytest.FixtureRequest
) -> None:
    """A subscription that the server began brings the thread's publications, survives a reconnect, and ends."""
    subject = f"sub-{request.node.callspec.id}"
    await connected(client, gateway, subject)
    thread = (await client.rpc("thread.create"))["thread_id"]
    channel = f"thread:{thread}"
    await api(gateway, "subscribe", user=subject, channel=channel)
    await client.event("server_subscribed", channel=channel)
    await api(gateway, "publish", channel=channel, data={"first": True})
    first = await client.event("server_publication", channel=channel)
    assert first["data"] == {"first": True}
    await api(gateway, "disconnect", user=subject, code=3011, reason="come back")
    await client.event("connected", 2)
    again = await client.event("server_subscribed", 2, channel=channel)
    assert again["recovered"] is True
    await api(gateway, "publish", channel=channel, data={"second": True})
    second = await client.event("server_publication", 2, channel=channel)
    assert second["offset"] == first["offset"] + 1
    await api(gateway, "unsubscribe", user=subject, channel=channel)
    await client.event("server_unsubscribed", channel=channel)


async def test_final_and_temporary_ends(
    client: Sdk, gateway: Program, request: pytest.FixtureRequest
) -> None:
    """3503 ends the client; a token that does not verify, sent in-band, ends it with 3500 and without another try."""
    subject = f"end-{request.node.callspec.id}"
    await connected(client, gateway, subject)
    await api(gateway, "disconnect", user=subject, code=3012, reason="no pong")
    await client.event("connected", 2)
    assert client.of("disconnected") == []
    await api(gateway, "disconnect", user=subject, code=3503, reason="disconnected: by the server")
    ended = await client.event("disconnected")
    assert (ended["code"], "by the server" in ended["reason"]) == (3503, True)
    assert len(client.of("connected")) == 2


async def test_a_bad_token_is_final(client: Sdk, gateway: Program) -> None:
    """The token in `connect` does not verify: 3500 with its reason, and no second attempt."""
    await client.call("connect", url=gateway.ws, token="eyJhbGciOiJub25lIn0.e30.")
    ended = await client.event("disconnected")
    assert ended["code"] == 3500
    assert len(client.of("connecting")) == 1


@pytest.mark.parametrize("name", ["js-json", "js-protobuf"])
async def test_headers_that_a_page_cannot_set_travel_in_connect(name: str, gateway: Program) -> None:
    """The JavaScript SDK's `headers` option: admitted by `connect.headers`, and refused like any other credential."""
    async with sdk(name) as page, sdk(name) as foreign:
        await page.call("connect", url=gateway.ws, emulated_headers=bearer("page"))
        await page.event("connected")
        assert (await page.rpc("whoami"))["user"] == "page"
        wrong = {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
        await foreign.call("connect", url=gateway.ws, emulated_headers=wrong)
        assert (await foreign.event("disconnected"))["code"] == 3500
