"""`narthex probe URL`: checks a deployment continuously, for Prometheus or a log pipeline.

Not here: a round (`narthex.doctor.canary`). Rules: rounds begin at a steady beat and never overlap; a round that
fails is a result and no reason to stop; ends on SIGTERM, SIGINT or after `--count` rounds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from cyclopts import Parameter

from narthex.cli.arguments import base_url, given_headers, given_token, seconds_of, usage, writable
from narthex.doctor import canary, canary_report
from narthex.doctor.observations import ConversationStep
from narthex.doctor.target import Target, parse_target
from narthex.domain import endpoints
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError, DependencyError
from narthex.status.measurements import Sample
from narthex.status.reporting import SampleReporter


def probe(
    url: str,
    *,
    token: Annotated[str, Parameter(env_var="NARTHEX_TOKEN", allow_leading_hyphen=True)] = "",
    header: tuple[str, ...] = (),
    every: str = "30s",
    count: int = 0,
    prometheus: Path | None = None,
    html: Path | None = None,
    timeout: str = "5s",
    ca_file: str = "",
    report: str = "",
    location: str = "",
    component: str = "",
) -> int:
    """Check a narthex again and again; one JSON line a round, or a Prometheus textfile.

    With --count exits 1 when a round failed. With --report it is also a prober of that status page, with
    NARTHEX_STATUS_TOKEN (docs/status-page.md).

    Examples:
        narthex probe https://chat.example.com --token @token.txt --every 30s
        narthex probe https://chat.example.com --token @token.txt --html probe.html

    Args:
        url: wss://host, or wss://host/ws.
        token: of a user made for this; it makes and deletes one thread a round. `@FILE` is read anew each round.
        header: one more header, `Name: value`; repeat it for more.
        every: from the beginning of one round to that of the next.
        count: stop after this many rounds; 0 goes on for ever.
        prometheus: write this file for node_exporter's textfile collector instead of JSON lines.
        html: write the last rounds (2,880 at most) as a page with plots, anew after each round.
        timeout: of each step.
        ca_file: a root certificate to trust besides the system's.
        report: URL of a gateway or status service, whose status page gets each round.
        location: names this prober to the status page, which does not show it; by default the machine's name.
        component: report whole rounds as this component of the page instead of as the four journeys.
    """
    try:
        # From a file it is read anew each round; from stdin there is only one.
        source = token if token.startswith("@") else given_token(token)
        given_token(source)
        writable(prometheus, "metrics")
        writable(html, "an HTML report")
        target = parse_target(url)
        runner = _Runner(
            target=target if target.path_given else msgspec.structs.replace(target, path=endpoints.WEBSOCKET),
            token=source,
            headers=given_headers(header),
            every_s=max(0.1, seconds_of("every", every)),
            timeout_s=max(0.1, seconds_of("timeout", timeout)),
            prometheus=prometheus,
            html=html,
            ca_file=ca_file,
            reporting=_reporting(report, location, component, seconds_of("every", every)) if report else None,
        )
    except ClientError as error:
        return usage(error)
    tally = asyncio.run(runner.run(count))
    return EXIT_FINDINGS if tally.failed and count else EXIT_OK


class _Reporting(NamedTuple):
    """Sends rounds to a status page; see the flags."""

    reporter: SampleReporter
    source: str
    component: str
    every_s: float

    async def send(self, seen: canary.CanaryRound, *, credential: bool) -> None:
        """Send one round. A page that does not take it is said, and gets it with the next."""
        found = canary.journeys(seen, credential=credential)
        if self.component and found:
            found = {self.component: (all(ok for ok, _ in found.values()), next(iter(found.values()))[1])}
        samples = [
            Sample(
                component=name,
                kind="probe",
                source=self.source,
                good=int(ok),
                failed=int(not ok),
                latency_ms=ms,
                every_s=self.every_s,
                at=seen.at,
            )
            for name, (ok, ms) in found.items()
        ]
        try:
            await self.reporter.record(samples)
        except DependencyError as error:
            print(f"error: {error.message}\nremedy: {error.remedy}", file=sys.stderr)


def _reporting(url: str, location: str, component: str, every_s: float) -> _Reporting:
    """Raises ClientError: there is no token, or the URL is none."""
    token = os.environ.get("NARTHEX_STATUS_TOKEN", "").strip()
    if not token.isascii() or not token.isprintable() or not token:
        raise ClientError(
            "no_token",
            "--report needs NARTHEX_STATUS_TOKEN, which is not set or cannot be sent.",
            "Set it to the value that the gateway or status service was started with.",
        )
    source = (location or socket.gethostname() or "probe")[:100]
    return _Reporting(
        SampleReporter(base_url(url), (token,)), source, component, min(max(1.0, every_s), 86_400.0)
    )


@dataclass
class _Runner:
    target: Target
    token: str
    headers: tuple[tuple[str, str], ...]
    every_s: float
    timeout_s: float
    prometheus: Path | None
    ca_file: str
    html: Path | None = None
    reporting: _Reporting | None = None
    rounds: deque[canary.CanaryRound] = field(default_factory=lambda: deque(maxlen=canary_report.KEPT_ROUNDS))
    tally: canary.Tally = field(default_factory=canary.Tally)

    async def run(self, count: int) -> canary.Tally:
        """Run rounds until a signal or `--count` stops them."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        done = 0
        while not stop.is_set():
            began = loop.time()
            await self._round()
            done += 1
            if done == count:
                break
            try:
                async with asyncio.timeout(max(0.0, began + self.every_s - loop.time())):
                    await stop.wait()
            except TimeoutError:
                continue
        if self.reporting is not None:
            await self.reporting.reporter.stop()
        return self.tally

    async def _round(self) -> None:
        seen = await self._seen()
        self.tally.add(seen)
        if self.reporting is not None:
            await self.reporting.send(seen, credential=bool(self.token or self.headers))
        url = self.target.shown
        if self.html is not None:
            self.rounds.append(seen)
            await asyncio.to_thread(_write, self.html, lambda: canary_report.as_html(list(self.rounds), url))
        if self.prometheus is None:
            print(canary.as_json_line(seen, url), flush=True)
        else:
            await asyncio.to_thread(
                _write, self.prometheus, lambda: canary.as_prometheus(seen, self.tally, url)
            )

    async def _seen(self) -> canary.CanaryRound:
        try:
            token = given_token(self.token)
        except ClientError as error:  # its file is being replaced, or has gone
            step = ConversationStep(name="token", ok=False, ms=0.0, detail=error.message)
            return canary.CanaryRound(at=time.time(), steps=(step,))
        return await canary.one_round(
            self.target,
            token=token,
            headers=self.headers,
            timeout_s=self.timeout_s,
            ca_file=self.ca_file,
        )


def _write(file: Path, text: Callable[[], str]) -> None:
    try:
        canary.write_textfile(file, text())
    except OSError as error:  # the next round may be able to; a file that grows old is an alert of its own
        print(f"error: {file} cannot be written ({error.strerror}).", file=sys.stderr)
