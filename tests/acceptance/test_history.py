"""The history limit on the real program: messages past the owner's plan at the start are deleted soon afterwards."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from narthex.domain.channels import channel_key
from narthex.domain.plans import DAY_S, PLANS
from tests.acceptance.program import Program, clean_environment
from tests.timing import within

pytestmark = pytest.mark.acceptance

DAYS = PLANS["free"].history_days or 0
MINUTE = 60.0


async def rpc(socket: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    """The `data` of an RPC's reply, or its `error`."""
    number = rpc_numbers.pop()
    await socket.send(json.dumps({"id": number, "rpc": {"method": method, "data": params}}))
    async with asyncio.timeout(within(10)):
        async for frame in socket:
            for line in str(frame).splitlines():
                reply: dict[str, Any] = json.loads(line)
                if reply.get("id") == number:
                    found: dict[str, Any] = reply.get("error") or reply["rpc"]["data"]
                    return found
    raise AssertionError("the socket closed")


def token_of(program: Program) -> str:
    """The output of `narthex token` for a user on `free`."""
    return subprocess.run(
        program.command("token", "--sub", "ada", "--data-dir", str(program.directory / "data")),
        env=clean_environment({}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


rpc_numbers = list(range(1_000, 1, -1))


def make_older(store: Path, thread_id: str, seconds: float) -> None:
    """Age the thread: all its messages appear to be this old."""
    with sqlite3.connect(store) as connection:
        for table, columns in (
            ("threads", ("created_at", "updated_at", "oldest_at")),
            ("messages", ("created_at",)),
            ("runs", ("created_at", "started_at", "finished_at")),
        ):
            moves = ", ".join(f"{column} = {column} - ?" for column in columns)
            connection.execute(
                f"UPDATE {table} SET {moves} WHERE thread_id = ?",
                (*[seconds] * len(columns), thread_id),
            )
    connection.close()


async def test_what_is_past_the_plan_goes_and_what_is_not_stays(tmp_path: Path) -> None:
    """The old thread loses rows, search entries and log, the other keeps them; the log line and the metrics report
    it.
    """
    program = Program(tmp_path, {"NARTHEX_HISTORY_PURGE_EVERY_S": "1", "NARTHEX_LOG_FORMAT": "json"})
    await program.start()
    try:
        headers = {"Authorization": f"Bearer {await asyncio.to_thread(token_of, program)}"}
        threads = {}
        async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
            await socket.send('{"id":1,"connect":{}}')
            for name in ("past", "within"):
                started = await rpc(socket, "run.start", text=f"help {name}", client_message_id=name)
                threads[name] = started["thread_id"]
                async with asyncio.timeout(within(10)):
                    while (await rpc(socket, "run.get", run_id=started["run_id"]))["state"] != "finished":  # noqa: ASYNC110 - asks the server
                        await asyncio.sleep(0.02)
        assert program.terminate() == 0
        store = tmp_path / "data" / "narthex.db"
        make_older(store, threads["past"], DAYS * DAY_S + MINUTE)
        make_older(store, threads["within"], DAYS * DAY_S - 10 * MINUTE)

        await program.start()
        async with httpx2.AsyncClient(base_url=program.http, trust_env=False) as http:
            purged = 'narthex_history_purged_total{kind="threads"} 1.0'
            stamp = 0.0
            async with asyncio.timeout(within(15)):
                while not stamp:  # of the end of the first purge: the deleted rows are counted before it
                    metrics = (await http.get("/metrics")).text
                    if purged in metrics:
                        ended = "narthex_history_purge_timestamp"
                        found = [line for line in metrics.splitlines() if line.startswith(ended)]
                        stamp = float(found[0].split()[-1])
                    await asyncio.sleep(0.05)
            assert abs(stamp - time.time()) < 60
        async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
            await socket.send('{"id":1,"connect":{}}')
            listed = await rpc(socket, "thread.list")
            assert [entry["thread_id"] for entry in listed["threads"]] == [threads["within"]]
            assert (await rpc(socket, "thread.get", thread_id=threads["past"]))["code"] == 404
            assert len((await rpc(socket, "thread.get", thread_id=threads["within"]))["messages"]) >= 2
            assert (await rpc(socket, "limits"))["history_days"] == {"limit": DAYS}
        assert program.terminate() == 0
        assert '"event": "history purged"' in program.log or '"event":"history purged"' in program.log
        with sqlite3.connect(store) as connection:
            for table in ("threads", "messages", "runs", "members"):
                kept = {row[0] for row in connection.execute(f"SELECT DISTINCT thread_id FROM {table}")}
                assert kept == {threads["within"]}, table
            assert connection.execute("SELECT count(*) FROM log_cuts").fetchone() == (0,)
        with sqlite3.connect(tmp_path / "data" / "log.db") as connection:
            counts = dict(
                connection.execute(
                    "SELECT c.name, count(l.channel) FROM channels c LEFT JOIN log l ON l.channel = c.id GROUP BY 1"
                )
            )
        assert counts.get(channel_key("default", f"thread:{threads['past']}"), 0) == 0
        assert counts[channel_key("default", f"thread:{threads['within']}")] > 0
    finally:
        program.end()
