"""Tenants who know each other's ids try every call with them, also aborted ones: no foreign byte comes back.

The attackers know the true ids of their victims, which is more than any guess gives. All data of tenant N contains the
mark `MARK-N-`: subjects, texts, titles and answers; a mark of another tenant in anything received is a leak.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import msgspec
import pytest

from tests.acceptance.program import Program, running
from tests.campaigns.follower import SERVED, Line, start_run, token
from tests.timing import within

pytestmark = pytest.mark.acceptance
MARK = re.compile(rb"MARK-(\d+)-")
_decode = msgspec.json.Decoder().decode


class Scale(NamedTuple):
    """The number of tenants, guesses of each, and aborted calls of each."""

    tenants: int
    guesses: int
    broken_off: int


async def test_few_tenants(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, Scale(15, 40, 50))


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_two_hundred_tenants(tmp_path: Path) -> None:
    """200 tenants, 40,000 guesses, 10,000 calls aborted in mid-flight."""
    await campaign(tmp_path, Scale(200, 200, 50))


class Tenant:
    """One tenant with one user, one thread and one run.

    Attributes:
        leaks: data of other tenants that it received.
        own: how often its own mark was seen (the proof that marks are seen at all).
    """

    def __init__(self, program: Program, number: int) -> None:
        self.program = program
        self.number = number
        self.mark = f"MARK-{number}-{secrets.token_hex(6)}"
        self.subject = f"{self.mark}-user"
        self.token = token(self.subject, tenant=f"tenant-{number}")
        self.run: dict[str, Any] = {}
        self.leaks: list[bytes] = []
        self.own = 0
        self.replies = 0
        self.broken_off = 0
        self.successes: dict[str, int] = {}
        self.chance = random.Random(number)

    async def settle(self) -> None:
        """Create a thread with a finished answer."""
        self.run = await start_run(
            self.program.port, self.token, f"{self.mark} hello", f"m-{self.number}", agent="parrot"
        )

    def look(self, data: bytes) -> None:
        """Search everything received for marks."""
        for number in MARK.findall(data):
            if int(number) == self.number:
                self.own += 1
            else:
                self.leaks.append(data[:500])

    # -- the attempts --------------------------------------------------------------------------------------

    def guess(self, victim: Tenant) -> tuple[str, dict[str, Any]]:
        """A command against another tenant's data."""
        chance = self.chance
        thread, run = victim.run["thread_id"], victim.run["run_id"]
        if chance.random() < 0.2:
            thread, run = secrets.token_hex(16), secrets.token_hex(16)
        channel = chance.choice(
            (
                f"thread:{thread}",
                f"user:{victim.subject}",
                f"tenant-{victim.number}/thread:{thread}",
                f"thread:../tenant-{victim.number}/thread:{thread}",
                f"thread:{thread}/../{thread}",
            )
        )
        offset = chance.choice((0, 1, 5, 2**31))
        commands: list[tuple[str, dict[str, Any]]] = [
            ("subscribe", {"channel": channel}),
            ("subscribe", {"channel": channel, "recover": True, "offset": offset, "epoch": ""}),
            ("history", {"channel": channel, "limit": 100}),
            ("history", {"channel": channel, "limit": 100, "since": {"offset": offset, "epoch": ""}}),
            ("presence", {"channel": channel}),
            ("presence_stats", {"channel": channel}),
            ("publish", {"channel": channel, "data": {"type": "CUSTOM", "name": "x"}}),
        ]
        calls: list[tuple[str, dict[str, Any]]] = [
            ("run.get", {"run_id": run}),
            ("run.cancel", {"run_id": run}),
            ("run.steer", {"run_id": run, "text": "leak"}),
            ("run.resume", {"run_id": run, "interrupt_id": run, "payload": True}),
            ("run.start", {"thread_id": thread, "text": "leak", "client_message_id": secrets.token_hex(8)}),
            ("thread.get", {"thread_id": thread}),
            ("thread.outcomes", {"thread_id": thread, "since": 0}),
            ("thread.rename", {"thread_id": thread, "title": "mine"}),
            ("thread.delete", {"thread_id": thread}),
            ("thread.members.add", {"thread_id": thread, "user_id": self.subject}),
            ("thread.members.remove", {"thread_id": thread, "user_id": self.subject}),
            ("thread.leave", {"thread_id": thread}),
            ("thread.invitation.accept", {"thread_id": thread}),
            ("thread.invitation.decline", {"thread_ids": [thread]}),
            ("thread.link", {"thread_id": thread}),
            ("thread.link.get", {"thread_id": thread}),
            ("thread.link.revoke", {"thread_id": thread}),
            ("thread.read", {"thread_id": thread, "offset": offset}),
            ("thread.search", {"text": chance.choice(("MARK", "hello", "said"))}),
            ("typing", {"thread_id": thread}),
        ]
        commands += [("rpc", {"method": method, "data": data}) for method, data in calls]
        return chance.choice(commands)

    def legal(self) -> tuple[str, dict[str, Any]]:
        """A command on the tenant's own data."""
        mine = {"thread_id": self.run["thread_id"]}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("thread.get", mine),
            ("thread.list", {}),
            ("run.get", {"run_id": self.run["run_id"]}),
            ("thread.search", {"text": "hello"}),
            ("whoami", {}),
            ("echo", {"mine": self.mark}),
        ]
        method, data = self.chance.choice(calls)
        return "rpc", {"method": method, "data": data}

    async def attack(self, others: list[Tenant], guesses: int) -> None:
        """Guess on one live socket, every fourth command a legal one, and check all answers."""
        line = Line(self.program.port, self.token)
        await line.live()
        try:
            for _ in range(guesses):
                victim = self.chance.choice(others)
                method, body = self.legal() if self.chance.random() < 0.25 else self.guess(victim)
                await self._answered(line, line.command(method, body), method, body)
        finally:
            line.end()

    async def _answered(self, line: Line, number: int, method: str, body: dict[str, Any]) -> None:
        while True:
            opcode, payload = await line.frame()
            assert opcode == 1, (opcode, payload, method, body)
            self.look(payload)
            for raw in payload.split(b"\n"):
                if raw == b"{}":
                    line.send("{}")
                elif raw and (reply := _decode(raw)).get("id") == number:
                    self.replies += 1
                    if "error" not in reply:
                        what = f"{method} {body.get('method', '')}".strip()
                        self.successes[what] = self.successes.get(what, 0) + 1
                    return

    async def break_off(self, others: list[Tenant], calls: int) -> None:
        """Ten calls in one write, then the connection is cut at a random time, on socket after socket."""
        while self.broken_off < calls:
            line = Line(self.program.port, self.token)
            await line.live()
            for _ in range(10):
                method, body = (
                    self.legal() if self.chance.random() < 0.5 else self.guess(self.chance.choice(others))
                )
                line.command(method, body)
                self.broken_off += 1
            await asyncio.sleep(self.chance.choice((0, 0, 0.001, 0.003)))  # the point of the cut
            line.cut()

    def http(self) -> httpx2.AsyncClient:
        """A client with this tenant's token; with long time-outs, because all tenants start at once."""
        return httpx2.AsyncClient(
            base_url=self.program.http,
            trust_env=False,
            timeout=within(120),
            headers={"Authorization": f"Bearer {self.token}"},
        )

    async def over_http(self, others: list[Tenant]) -> None:
        """The same over the server API and AG-UI; some requests are aborted."""
        async with self.http() as http:
            for victim in self.chance.sample(others, 2):
                thread, run = victim.run["thread_id"], victim.run["run_id"]
                for path in (
                    f"/api/v1/threads/{thread}",
                    f"/api/v1/threads/{thread}/export",
                    f"/api/v1/runs/{run}",
                    f"/agui/parrot/runs/{run}",
                ):
                    answer = await http.get(path)
                    assert answer.status_code == 404, (path, answer.text)
                    self.look(answer.content)
                said = {"id": "m-1", "role": "user", "content": "hello"}
                asked = {"threadId": thread, "runId": run, "messages": [said]}
                answer = await http.post("/agui/parrot", json=asked)
                assert answer.status_code == 200, answer.text  # a thread of its own, under the same name
                self.look(answer.content)
                with_time = asyncio.create_task(http.get("/api/v1/threads"))
                await asyncio.sleep(0)
                with_time.cancel()
                await asyncio.gather(with_time, return_exceptions=True)

    async def inspect(self) -> None:
        """All of the tenant's own data is unchanged."""
        async with self.http() as http:
            answer = await http.get(f"/api/v1/threads/{self.run['thread_id']}")
        self.look(answer.content)
        view = answer.json()
        assert view["thread"]["title"].startswith(f"{self.mark} hello")  # named after the first exchange
        assert [member["user_id"] for member in view["members"]] == [self.subject]
        assert [message["content"] for message in view["messages"]] == [
            f"{self.mark} hello",
            f"{self.subject} said {self.mark} hello",
        ]


async def campaign(directory: Path, scale: Scale) -> None:
    """Settle, attack and abort all at once, inspect."""
    async with running(directory, SERVED, ("--agent", "tests.campaigns.agents:parrot")) as program:
        tenants = [Tenant(program, number) for number in range(scale.tenants)]
        for tenant in tenants:
            await tenant.settle()
        async with asyncio.timeout(within(900)):
            await asyncio.gather(*(one(tenant, tenants, scale) for tenant in tenants))
            for tenant in tenants:
                await tenant.inspect()
        successes: dict[str, int] = {}
        for tenant in tenants:
            for what, count in tenant.successes.items():
                successes[what] = successes.get(what, 0) + count
        figures = {
            "tenants": scale.tenants,
            "answered": sum(tenant.replies for tenant in tenants),
            "broken_off": sum(tenant.broken_off for tenant in tenants),
            "own_marks_seen": sum(tenant.own for tenant in tenants),
            "leaks": sum(len(tenant.leaks) for tenant in tenants),
            "not_refused": successes,
        }
        print(f"tenants: {figures}")
        assert [leak for tenant in tenants for leak in tenant.leaks] == []
        assert all(tenant.own for tenant in tenants)
        # The calls that a tenant may make with any words: searching its own threads, and everything legal. Nothing else
        # succeeded.
        # Declining gives the same answer whether or not an invitation existed.
        mine = {"thread.get", "thread.list", "run.get", "thread.search", "whoami", "echo"}
        mine |= {"thread.invitation.decline"}
        assert set(successes) <= {f"rpc {method}" for method in mine}
        assert "Traceback" not in program.log


async def one(tenant: Tenant, tenants: list[Tenant], scale: Scale) -> None:
    """All actions of one tenant."""
    others = [other for other in tenants if other is not tenant]
    await asyncio.gather(
        tenant.attack(others, scale.guesses),
        tenant.break_off(others, scale.broken_off),
        tenant.over_http(others),
    )
