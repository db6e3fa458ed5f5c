"""Requests that come at the same moment in one thread: each message is sent once and has one answer, by each `busy`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.domain.runs import BUSY
from narthex.ports.agents import Agent, RunInput
from narthex.testing import gateway
from tests.timing import within
from tests.web.agui.client import Told, bearer, real, said, stream, until

pytestmark = pytest.mark.timeout(within(60))


class Agents:
    """`patient` ends when its message's gate opens; `listening` says what users add to its run, until `stop`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, text: str) -> asyncio.Event:
        return self._gates.setdefault(text, asyncio.Event())

    async def patient(self, run: RunInput) -> AsyncIterator[str]:
        text = run.messages[-1].content
        self.calls.append(text)
        yield "begun "
        await self.gate(text).wait()
        yield f"ended {text}"

    async def listening(self, run: RunInput) -> AsyncIterator[str]:
        texts = run.steer
        reading = asyncio.ensure_future(anext(texts))
        await asyncio.sleep(0)  # from here on it reads
        self.calls.append(run.messages[-1].content)
        yield "ready. "
        text = await reading
        while text != "stop":
            yield f"[{text}]"
            text = await anext(texts)

    def all(self) -> list[Agent]:
        return [
            Agent(name="patient", function=self.patient),
            Agent(name="listening", function=self.listening),
        ]


class Sent:
    """A request whose stream is read in a task. `answered`: its answer has begun, or it was refused."""

    def __init__(self, http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> None:
        self.answered = asyncio.Event()
        self.task = asyncio.create_task(self._read(http, path, body))

    async def _read(self, http: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> Told | str:
        async with http.stream("POST", path, json=body) as response:
            self.answered.set()
            if response.status_code == 200:
                return await stream(response, Told())
            await response.aread()
            return str(response.json()["code"])

    async def told(self) -> Told:
        """Its run's events, once it is over."""
        found = await self.task
        assert isinstance(found, Told), found
        return found


class Device:
    """A user's requests."""

    def __init__(self, http: httpx2.AsyncClient, agents: Agents) -> None:
        self.agents = agents
        self._http = http

    def post(self, body: dict[str, Any], agent: str = "patient") -> Sent:
        return Sent(self._http, f"/agui/{agent}", body)

    async def began(self, body: dict[str, Any], agent: str = "patient") -> Sent:
        """As `post`, once the agent is at work."""
        expected = len(self.agents.calls) + 1
        sent = self.post(body, agent)
        while len(self.agents.calls) < expected:  # noqa: ASYNC110 - the agent's list has no event
            await asyncio.sleep(0.01)
        return sent

    async def waits(self, body: dict[str, Any]) -> Sent:
        """As `post`, once the run is queued: then the answer begins, without an event."""
        sent = self.post(body)
        await sent.answered.wait()
        return sent

    async def cancel(self, name: str) -> None:
        answer = await self._http.post(f"/agui/patient/runs/{name}/cancel")
        assert answer.status_code == 200, answer.text

    async def queued(self) -> str:
        """The gateway's id of the run that waits."""
        found = (await self._http.get("/agui/patient/threads/t-1")).json()
        (run,) = [run for run in found["runs"] if run["state"] == "queued"]
        return str(run["runId"])

    async def thread(self, name: str = "t-1") -> list[tuple[str, str]]:
        """Role and content of the stored messages."""
        found = (await self._http.get(f"/agui/patient/threads/{name}")).json()
        return [(one["role"], one["content"]) for one in found["messages"]]


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    agents = Agents()
    async with (
        gateway(tmp_path, agents=agents.all()) as running,
        httpx2.AsyncClient(
            base_url=running.http,
            trust_env=False,
            timeout=within(20),
            headers=bearer(running, plan="enterprise"),  # whose limits do not matter here
        ) as http,
    ):
        yield Device(http, agents)


def wish(text: str, busy: str, **more: Any) -> dict[str, Any]:
    return said(text, forwarded_props={"narthex": {"busy": busy}}, **more)


def outcome(told: Told) -> str:
    return str(told.events[-1]["outcome"]["type"])


async def told_of(sent: Sequence[Sent]) -> list[Told]:
    return list(await asyncio.gather(*(one.told() for one in sent)))


async def first_over(sent: Sequence[Sent]) -> list[Told | str]:
    """What is over first."""
    done, _ = await asyncio.wait([one.task for one in sent], return_when=asyncio.FIRST_COMPLETED)
    return [task.result() for task in done]


async def test_two_messages_of_a_new_thread_run_one_after_the_other(device: Device) -> None:
    """Both devices begin the thread: one thread, two whole answers, and the later run begins behind the other's end."""
    for text in ("one", "two"):
        device.agents.gate(text).set()
    told = await told_of([device.post(said(text)) for text in ("one", "two")])
    assert [one.text for one in told] == ["begun ended one", "begun ended two"]
    assert all(one.is_whole() for one in told)
    assert len({real(one, "threadId") for one in told}) == 1
    offsets = sorted([int(name.partition("-")[0]) for name in one.ids] for one in told)
    assert offsets[0][-1] < offsets[1][0]
    assert sorted(role for role, _ in await device.thread()) == ["assistant", "assistant", "user", "user"]


async def test_of_two_that_want_an_idle_thread_one_is_refused_and_not_sent(device: Device) -> None:
    """The refused message stands in no thread: it would stay without an answer."""
    for number in range(4):
        thread, texts = f"t-{number}", [f"{number} one", f"{number} two"]
        sent = [device.post(wish(text, "reject", thread=thread)) for text in texts]
        assert await first_over(sent) == ["thread_busy"]
        for text in texts:
            device.agents.gate(text).set()
        found = [await one.task for one in sent]
        (answered,) = [text for text, one in zip(texts, found, strict=True) if isinstance(one, Told)]
        assert await device.thread(thread) == [("user", answered), ("assistant", f"begun ended {answered}")]


async def test_of_two_that_interrupt_one_ends_the_other(device: Device) -> None:
    """The run that was at work is cancelled, and one of the two new ones: none waits behind another."""
    for number in range(4):
        thread, texts = f"t-{number}", [f"{number} one", f"{number} two"]
        first = await device.began(said(f"{number} long", thread))
        sent = [device.post(wish(text, "interrupt", thread=thread)) for text in texts]
        assert outcome(await first.told()) == "cancelled"
        (over,) = await first_over(sent)
        assert isinstance(over, Told)
        assert outcome(over) == "cancelled"
        for text in texts:
            device.agents.gate(text).set()
        assert sorted(outcome(one) for one in await told_of(sent)) == ["cancelled", "success"]


async def test_two_messages_steer_the_agent_at_work(device: Device) -> None:
    """Both are taken, once each, and neither has a run of its own."""
    first = await device.began(said("listen"), "listening")
    sent = [device.post(wish(text, "steer"), "listening") for text in ("left", "right")]
    for one in sent:
        await one.answered.wait()
    sent.append(device.post(wish("stop", "steer"), "listening"))
    told = await told_of([first, *sent])
    assert len({real(one) for one in told}) == 1
    assert told[0].text in ("ready. [left][right]", "ready. [right][left]")
    assert [role for role, _ in await device.thread()].count("user") == 4
    assert device.agents.calls == ["listen"]


@pytest.mark.parametrize("busy", [busy for busy in BUSY if busy != "steer"])
async def test_one_request_several_times_is_one_run(device: Device, busy: str) -> None:
    """A client or a proxy repeats a request while the first one is worked on: it neither refuses nor cancels itself."""
    texts = [f"hello {number}" for number in range(5)]
    for text in texts:
        device.agents.gate(text).set()
        # A thread each: a thread is busy until the row of its run says that it is over, a moment after its stream.
        body = wish(text, busy, thread=f"t of {text}", run=f"r of {text}", message=f"m of {text}")
        told = await told_of([device.post(body) for _ in range(3)])
        assert [one.text for one in told] == [f"begun ended {text}"] * 3
        assert len({real(one) for one in told}) == 1
    assert device.agents.calls == texts


async def test_one_request_several_times_steers_once(device: Device) -> None:
    """The agent at work gets the message once, and it has no run of its own."""
    first = await device.began(said("listen"), "listening")
    texts = [f"hello {number}" for number in range(5)]
    sent: list[Sent] = []
    for text in texts:
        body = wish(text, "steer", run=f"r of {text}", message=f"m of {text}")
        same = [device.post(body, "listening") for _ in range(3)]
        for one in same:
            await one.answered.wait()
        sent += same
    sent.append(device.post(wish("stop", "steer"), "listening"))
    told = await told_of([first, *sent])
    assert len({real(one) for one in told}) == 1
    assert told[0].text == "ready. " + "".join(f"[{text}]" for text in texts)
    assert device.agents.calls == ["listen"]


async def test_a_message_that_is_older_than_the_run_is_answered_again(device: Device) -> None:
    """`busy: steer` with the run's own question under a new `runId`: a run of its own, and the agent is not steered."""
    first = await device.began(said("listen", message="m", run="r-1"), "listening")
    again = device.post(wish("listen", "steer", message="m", run="r-2"), "listening")
    await again.answered.wait()
    assert await device.queued() != ""
    ends = [device.post(wish("stop", "steer", message="end"), "listening")]
    assert (await first.told()).text == "ready. "
    await until(lambda: len(device.agents.calls) == 2)
    ends.append(device.post(wish("stop", "steer", message="end again"), "listening"))
    assert (await again.told()).text == "ready. "
    runs = [real(one) for one in await told_of([first, again, *ends])]
    assert runs == [runs[0], runs[1], runs[0], runs[1]]
    assert runs[0] != runs[1]
    assert [role for role, _ in await device.thread()].count("user") == 3


async def test_one_message_id_for_two_texts_at_once(device: Device) -> None:
    """One of them is the message, the other one is refused and stands nowhere."""
    for number in range(4):
        thread, texts = f"t-{number}", [f"{number} one", f"{number} two"]
        for text in texts:
            device.agents.gate(text).set()
        sent = [device.post(said(text, thread, message="same")) for text in texts]
        found = [await one.task for one in sent]
        assert sorted(one if isinstance(one, str) else one.text[:5] for one in found) == [
            "begun",
            "message_id_used",
        ]
        assert [role for role, _ in await device.thread(thread)] == ["user", "assistant"]


async def test_two_runs_of_one_name_end_together(device: Device) -> None:
    """A client gives the same `runId` to two messages: two runs, and the cancellation by their name ends both."""
    sent = [await device.began(said("one", run="same")), await device.waits(said("two", run="same"))]
    await device.cancel("same")
    told = await told_of(sent)
    assert [outcome(one) for one in told] == ["cancelled", "cancelled"]
    assert real(told[0]) != real(told[1])
    assert device.agents.calls == ["one"]


async def test_a_name_that_a_run_had_before_still_cancels(device: Device) -> None:
    """The newest run of the name has ended in the queue, and the older one is at work: it is the one that ends."""
    first = await device.began(said("one", run="same"))
    second = await device.waits(said("two", run="same"))
    await device.cancel(await device.queued())
    assert outcome(await second.told()) == "cancelled"
    await device.cancel("same")
    assert outcome(await first.told()) == "cancelled"


@pytest.mark.parametrize("which", ["at work", "queued"])
async def test_a_cancelled_run_leaves_the_other_alone(device: Device, which: str) -> None:
    """Two runs of one thread, one cancelled by the client's name: its stream ends, and the other one goes on."""
    first, second = (
        await device.began(said("one", run="r-1")),
        await device.waits(said("two", run="r-2")),
    )
    cancelled, left, text = (first, second, "two") if which == "at work" else (second, first, "one")
    await device.cancel("r-1" if cancelled is first else "r-2")
    assert outcome(await cancelled.told()) == "cancelled"
    assert not left.task.done()
    device.agents.gate(text).set()
    told = await left.told()
    assert (outcome(told), told.is_whole(), told.text) == ("success", True, f"begun ended {text}")
