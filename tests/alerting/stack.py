"""Debian's Prometheus and Alertmanager as child processes, and a webhook that takes the notifications.

Rules: loopback and free ports only; each program ends by its own process id; every wait is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from narthex.adapters.telemetry import alert_rules
from narthex.e2e.children import free_port
from tests.services import missing
from tests.timing import within

SCRAPE_MS = 500
RUNBOOKS = "https://gateway.test/runbooks/"
SCALE = 0.005
"""A rule's 5 minutes are 1.5 s, its hour 18 s."""


class Webhook:
    """Takes what Alertmanager sends; `firing` and `resolved` are the last state of each alert by name."""

    def __init__(self) -> None:
        self.port = 0
        self.fired: dict[str, dict[str, Any]] = {}
        self.resolved: set[str] = set()
        self._changed = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: any number of requests."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length:")[2].partition("\r\n")[0])
                self._take(json.loads(await reader.readexactly(length)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    def _take(self, body: Mapping[str, Any]) -> None:
        for alert in body["alerts"]:
            name = alert["labels"]["alertname"]
            if alert["status"] == "firing":
                self.fired[name] = alert
                self.resolved.discard(name)
            else:
                self.resolved.add(name)
        self._changed.set()

    async def wait(self, names: set[str], *, resolved: bool = False, timeout_s: float) -> None:
        """Wait until each alert was received (and then, `resolved`, its end)."""
        try:
            async with asyncio.timeout(timeout_s):
                while not names <= (self.resolved if resolved else set(self.fired)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            left = names - (self.resolved if resolved else set(self.fired))
            raise AssertionError(f"not {'resolved' if resolved else 'fired'}: {sorted(left)}") from None


class Stack:
    """Prometheus with narthex's rules at compressed times, Alertmanager, and the webhook behind it.

    Attributes:
        targets: `host:port` of each scraped process, by job; `retarget` makes a change known.
    """

    def __init__(
        self, directory: Path, rules: str, targets: Mapping[str, Sequence[str]], scrape_ms: int = SCRAPE_MS
    ) -> None:
        self.directory = directory
        self._scrape_ms = scrape_ms
        self.webhook = Webhook()
        self.targets = {job: list(found) for job, found in targets.items()}
        self.port, self.alertmanager_port = free_port(), free_port()
        self._rules = rules
        self._programs: list[subprocess.Popen[bytes]] = []
        self._http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False)

    def retarget(self) -> None:
        """Write the files that Prometheus watches."""
        for job, found in self.targets.items():
            file = self.directory / f"{job}.json"
            fresh = file.with_suffix(".tmp")
            fresh.write_text(json.dumps([{"targets": found}]))
            fresh.replace(file)

    async def start(self, receiver: str) -> None:
        """Start both, and wait until Prometheus has scraped every target once."""
        for program in ("prometheus", "prometheus-alertmanager"):
            if shutil.which(program) is None:
                missing(program, f"apt-get install {program}")
        self.retarget()
        scrape = f"{self._scrape_ms}ms"
        (self.directory / "rules.yml").write_text(self._rules)
        jobs = "".join(
            f"""
  - job_name: {job}
    file_sd_configs: [{{files: ["{self.directory / job}.json"], refresh_interval: 1s}}]"""
            for job in self.targets
        )
        (self.directory / "prometheus.yml").write_text(
            f"""
global: {{scrape_interval: {scrape}, scrape_timeout: {scrape}, evaluation_interval: {scrape}}}
rule_files: ["{self.directory / "rules.yml"}"]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["127.0.0.1:{self.alertmanager_port}"]}}]}}]}}
scrape_configs:{jobs}
"""
        )
        (self.directory / "alertmanager.yml").write_text(
            f"""
route: {{receiver: narthex, group_by: ["..."], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: narthex, webhook_configs: [{{url: "{receiver}", send_resolved: true}}]}}]
"""
        )
        self._begin(
            "prometheus-alertmanager",
            f"--config.file={self.directory / 'alertmanager.yml'}",
            f"--storage.path={self.directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{self.alertmanager_port}",
            "--cluster.listen-address=",
        )
        self._begin(
            "prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--enable-feature=exemplar-storage",
            "--rules.alert.resend-delay=1s",
        )
        count = sum(map(len, self.targets.values()))
        await self.until(lambda: self.number("count(up == 1)"), count)

    def _begin(self, *words: str) -> None:
        with (self.directory / f"{words[0]}.log").open("ab") as log:
            self._programs.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            )

    async def stop(self) -> None:
        """End both."""
        await self._http.aclose()
        for program in self._programs:
            program.terminate()
        for program in self._programs:
            try:
                await asyncio.to_thread(program.wait, 10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    async def query(self, promql: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        answer = await self._http.get("/api/v1/query", params={"query": promql}, timeout=10)
        body = answer.json()
        assert body["status"] == "success", f"{promql}: {body}"
        result: list[dict[str, Any]] = body["data"]["result"]
        return result

    async def exemplars(self, promql: str) -> list[dict[str, Any]]:
        """The exemplars of a selector in the last hour."""
        now = time.time()
        words = {"query": promql, "start": str(now - 3600), "end": str(now + 60)}
        body = (await self._http.get("/api/v1/query_exemplars", params=words, timeout=10)).json()
        return [exemplar for series in body["data"] for exemplar in series["exemplars"]]

    async def number(self, promql: str) -> float | None:
        """The one sample of a query; None: there is none."""
        found = await self.query(promql)
        return float(found[0]["value"][1]) if found else None

    async def until(self, read: Any, wanted: float | Callable[[], float], *, timeout_s: float = 20.0) -> None:
        """Wait until a coroutine function returns `wanted`: Prometheus has no event for a new sample."""
        seen: object = None
        ends_at = time.monotonic() + within(timeout_s)
        while time.monotonic() < ends_at:
            with contextlib.suppress(httpx2.HTTPError, ValueError):  # it is still starting
                seen = await read()
                if seen == (wanted() if callable(wanted) else wanted):
                    return
            await asyncio.sleep(0.2)
        raise AssertionError(
            f"it is {seen}, not {wanted() if callable(wanted) else wanted}\n{self.log()[-3000:]}"
        )

    def log(self) -> str:
        """The output of both programs."""
        return "".join(file.read_text(errors="replace") for file in self.directory.glob("*.log"))


@contextlib.asynccontextmanager
async def stack(
    directory: Path,
    targets: Mapping[str, Sequence[str]],
    chosen: Mapping[str, str] | None = None,
    *,
    scale: float = SCALE,
    scrape_ms: int = SCRAPE_MS,
) -> AsyncIterator[Stack]:
    """A running stack. `chosen` are thresholds of the rules."""
    directory.mkdir()  # noqa: ASYNC240 - a system call of microseconds
    rules = alert_rules.rules(alert_rules.thresholds(chosen or {}), runbooks=RUNBOOKS, scale=scale)
    found = Stack(directory, rules, targets, scrape_ms)
    server = await asyncio.start_server(found.webhook.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        await found.start(f"http://127.0.0.1:{port}/")
        yield found
    finally:
        await found.stop()
        server.close()
