"""NarthexAgent over HTTP and the WebSocket, with real gateways and a worker: reload, second gateway, kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.acceptance.fleet import fleet
from tests.acceptance.program import Program
from tests.acceptance.scripts import node_with, script
from tests.adapters.agents.serving import served
from tests.timing import within

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(within(300)),
]
SCRIPT = Path(__file__).with_name("narthex_agent.mjs")
TRANSPORTS = ("http", "websocket")
WORDS = 20


class Model:
    """A model that stops in the middle of each answer until the test lets it go on, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def gate(self, text: str) -> asyncio.Event:
        """Opened when the answer to a message may go on."""
        return self.gates.setdefault(text, asyncio.Event())

    def answer(self, text: str) -> str:
        """The whole answer."""
        return "".join(f"{text}-{number} " for number in range(WORDS))

    def app(self) -> Starlette:
        """With OpenAI's interface."""
        return Starlette(routes=[Route("/v1/chat/completions", self._complete, methods=["POST"])])

    async def _complete(self, request: Request) -> Response:
        text = (await request.json())["messages"][-1]["content"]
        self.calls.append(text)
        return StreamingResponse(self._stream(text), media_type="text/event-stream")

    async def _stream(self, text: str) -> AsyncIterator[str]:
        def chunk(content: str, finish: str | None = None) -> str:
            choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
            return f"data: {json.dumps({'choices': [choice]})}\n\n"

        for number in range(WORDS):
            if number == WORDS // 2:
                await self.gate(text).wait()
            yield chunk(f"{text}-{number} ")
        yield chunk("", "stop") + "data: [DONE]\n\n"


class Client:
    """The script."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.events: list[dict[str, Any]] = []
        self.proofs: list[dict[str, Any]] = []
        self.began: list[dict[str, Any]] = []

    async def send(self, op: str, **more: Any) -> None:
        """Begin something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, **more}).encode() + b"\n")
        await self._process.stdin.drain()

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read lines until one holds; returns it."""
        assert self._process.stdout is not None
        async with asyncio.timeout(within(120)):
            while True:
                raw = await self._process.stdout.readline()
                assert raw, "the script ended"
                line: dict[str, Any] = json.loads(raw)
                for kind, kept in (("event", self.events), ("proof", self.proofs), ("began", self.began)):
                    if kind in line:
                        kept.append(line[kind])
                assert "error" not in line, line
                if holds(line):
                    return line

    async def done(self, op: str) -> dict[str, Any]:
        """Wait for the end of something."""
        return await self.until(lambda line: line.get("done") == op)

    async def heard(self, text: str) -> None:
        """Wait for a text in an answer."""
        await self.until(lambda line: text in str(line.get("event", {}).get("delta", "")))

    async def ended(self, run: str) -> None:
        """Wait for the end of a run, by the client's name for it."""

        def is_end(event: dict[str, Any]) -> bool:
            return event.get("type") == "RUN_FINISHED" and event.get("runId") == run

        await self.until(lambda line: is_end(line.get("event", {})))

    async def proved(self, count: int) -> None:
        """Wait for the proofs of so many runs; each must be whole."""
        if len(self.proofs) < count:
            await self.until(lambda _: len(self.proofs) >= count)
        assert [proof["complete"] for proof in self.proofs] == [True] * count


@contextlib.asynccontextmanager
async def client(
    node: str, gateway: Program, token: str, thread: str, transport: str
) -> AsyncIterator[Client]:
    """A device of the user."""
    arguments = (f"{gateway.http}/agui/model", token, thread, transport)
    async with script(node, SCRIPT, *arguments, stderr=asyncio.subprocess.PIPE) as process:
        yield Client(process)
    assert process.stderr is not None
    assert (await process.stderr.read()).decode() == ""


@pytest.fixture
def node() -> str:
    return node_with("@ag-ui/client")


class Gateways(NamedTuple):
    """Two gateways that run no agents, beside a worker that does."""

    model: Model
    first: Program
    second: Program
    token: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateways(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateways]:
    model = Model()
    async with served(model.app()) as url:
        env = {"NARTHEX_AGENT": f"model=openai+{url}/v1#model"}
        async with fleet(tmp_path_factory.mktemp("agents"), **env) as built:
            first = await built.gateway(NARTHEX_RUN_AGENTS="0")
            second = await built.gateway(NARTHEX_RUN_AGENTS="0")
            await built.worker()
            yield Gateways(model, first, second, await first.login("ada@example.org"))


def shown(line: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The messages that an agent has: id, role and text."""
    return [(one["id"], one["role"], str(one.get("content", ""))) for one in line["messages"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_reload_on_a_second_gateway_and_kill_9_of_the_first(
    gateways: Gateways, node: str, transport: str
) -> None:
    """In mid-run: each device has the same whole messages, the run is proved, and the model was called once."""
    model, first, second, token = gateways
    thread, text, run = f"thread-{transport}", f"hello-{transport}", f"r-{transport}"
    half = f"{text}-{WORDS // 2 - 1} "
    async with (
        client(node, first, token, thread, transport) as page,
        client(node, second, token, thread, transport) as reload,
    ):
        await page.send("run", text=text, id=f"m-{transport}", runId=run)
        await page.heard(half)
        await reload.send("connect")
        await reload.heard(half)
        first.kill()
        await first.start()
        model.gate(text).set()
        there, here = await reload.done("connect"), await page.done("run")
        await page.proved(1)
        await reload.proved(1)
        assert shown(here) == shown(there)
        assert [one[1:] for one in shown(here)] == [("user", text), ("assistant", model.answer(text))]
        assert shown(here)[0][0] == f"m-{transport}"
        assert reload.proofs == page.proofs
        assert page.proofs[0]["clientRunId"] == run
        await reload.send("connect")  # all is stored now
        assert shown(await reload.done("connect")) == shown(here)
    assert model.calls.count(text) == 1
    assert [event["runId"] for event in page.events if event["type"] == "RUN_STARTED"] == [run]


async def posted(gateway: Program, token: str, body: dict[str, Any]) -> list[dict[str, Any]] | str:
    """A run's events once it is over, or the code of the refusal."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(trust_env=False, timeout=within(60)) as http:
        answer = await http.post(f"{gateway.http}/agui/model", json=body, headers=headers)
    if answer.status_code != 200:
        return str(answer.json()["code"])
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def asked(thread: str, text: str, busy: str) -> dict[str, Any]:
    """A request with a user's message."""
    props = {"narthex": {"busy": busy}}
    messages = [{"id": f"m-{thread}-{text}", "role": "user", "content": text}]
    names = {"threadId": thread, "runId": f"r-{thread}-{text}"}
    return {**names, "messages": messages, "state": {}, "tools": [], "context": [], "forwardedProps": props}


@pytest.mark.parametrize("busy", ["enqueue", "reject", "interrupt"])
async def test_two_gateways_take_one_request_at_once(gateways: Gateways, busy: str) -> None:
    """The same request to both: one run, which neither refuses nor cancels itself, and one call of the model."""
    model, first, second, token = gateways
    for number in range(3):
        text = f"once-{busy}-{number}"
        model.gate(text).set()
        body = asked(f"same-{busy}-{number}", text, busy)
        found = await asyncio.gather(*(posted(one, token, body) for one in (first, second, first)))
        events = [one for one in found if isinstance(one, list)]
        assert len(events) == 3, found
        assert [one[-1]["outcome"] for one in events] == [{"type": "success"}] * 3
        assert [(one[0], one[-1]) for one in events] == [(events[0][0], events[0][-1])] * 3
        assert model.calls.count(text) == 1


@pytest.mark.parametrize("busy", ["reject", "interrupt"])
async def test_two_gateways_take_two_messages_at_once(gateways: Gateways, busy: str) -> None:
    """One of two that want the thread for themselves is refused, or ended by the other."""
    model, first, second, token = gateways
    for number in range(3):
        thread = f"two-{busy}-{number}"
        texts = [f"{thread}-a", f"{thread}-b"]
        tasks = [
            asyncio.create_task(posted(one, token, asked(thread, text, busy)))
            for one, text in zip((first, second), texts, strict=True)
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (lost,) = [task.result() for task in done]
        if busy == "reject":
            assert lost == "thread_busy"
        else:
            assert isinstance(lost, list)
            assert lost[-1]["outcome"] == {"type": "cancelled"}
        for text in texts:
            model.gate(text).set()
        (won,) = [task for task in tasks if task not in done]
        found = await won
        assert isinstance(found, list)
        assert found[-1]["outcome"] == {"type": "success"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_another_device_begins_is_followed_and_cancelled(
    gateways: Gateways, node: str, transport: str
) -> None:
    """A device that watches a thread, which is not there yet, gets each run that another one begins, under the other
    one's name for it, and cancels it by that name.
    """
    model, first, second, token = gateways
    thread = f"watched-{transport}"
    async with (
        client(node, first, token, thread, transport) as page,
        client(node, second, token, thread, transport) as phone,
    ):
        await phone.send("watch")
        await phone.done("watch")
        for number in (1, 2):
            text, name = f"{transport}-{number}", f"r-{transport}-{number}"
            await page.send("run", text=text, id=f"m-{text}", runId=name)
            await phone.heard(f"{text}-{WORDS // 2 - 1} ")
            assert phone.began[-1]["runId"] == name
            if number == 1:
                model.gate(text).set()
            else:
                await phone.send("cancel", runId=name)
            done = await page.done("run")
            await phone.ended(name)
        await page.proved(2)
        ends = [event["outcome"]["type"] for event in page.events if event["type"] == "RUN_FINISHED"]
        assert ends == ["success", "cancelled"]
        assert shown(done)[1][2] == model.answer(f"{transport}-1")
