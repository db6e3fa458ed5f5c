"""The TLS certificates of real engines: when they end, after a renewal too, in the metrics and in `check --connect`.

The test's Valkey and PostgreSQL are built without TLS: a front of the test's own terminates it for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.adapters.certificates import certificate_end, certificate_words
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.app.certificate_watch import CertificateWatch
from narthex.settings import load
from narthex.wiring.engines import make_broker, make_store, reach_broker, reach_store
from tests.contracts.recorder import Recorder
from tests.doctor.scripted import Authority
from tests.services import NatsServer, PostgresServer, ValkeyServer, data_directory
from tests.timing import within

pytestmark = pytest.mark.timeout(120)
FIRST_DAYS, RENEWED_DAYS = 5, 25
SSL_REQUEST_BYTES = 8  # PostgreSQL's protocol, 55.2.10


class TlsNats(NatsServer):
    """NATS whose clients must use TLS, with the newest certificate of its authority; SIGHUP reads it again."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.authority = Authority(directory)
        self.renew(FIRST_DAYS)

    def renew(self, days: int) -> None:
        """A certificate that ends in so many days; a server that runs takes it."""
        self.authority.context("127.0.0.1", end_days=days)
        newest = max(self.directory.glob("leaf*.pem"), key=lambda file: int(file.stem[4:]))
        (self.directory / "server.pem").write_bytes(newest.read_bytes())
        self.reload()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """With the certificate."""
        file, settings = self.directory / "server.pem", self.directory / "tls.conf"
        settings.write_text(f'tls {{ cert_file: "{file}", key_file: "{file}" }}\n')
        return [*super().command(), "-c", str(settings)]  # only a file is read again


class TlsFront:
    """Terminates TLS before a server; `asks`: after PostgreSQL's request for it."""

    def __init__(self, directory: Path, port: int, *, asks: bool = False) -> None:
        self.authority = Authority(directory)
        self._context = self.authority.context("127.0.0.1", end_days=FIRST_DAYS)
        self._behind, self._asks, self._directory = port, asks, directory
        self.port = 0

    def renew(self, days: int) -> None:
        """New connections get a certificate that ends in so many days."""
        self._context = self.authority.context("127.0.0.1", end_days=days)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """The front on a port of its own."""
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._relay(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind: asyncio.StreamWriter | None = None
        try:
            if self._asks:
                await reader.readexactly(SSL_REQUEST_BYTES)
                writer.write(b"S")
                await writer.drain()
            await writer.start_tls(self._context)
            answers, behind = await asyncio.open_connection("127.0.0.1", self._behind)
            await asyncio.gather(_pass(reader, behind), _pass(answers, writer))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            for end in (writer, behind):
                if end is not None:
                    end.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError("one side ended")


@contextlib.asynccontextmanager
async def tls_engine(kind: str, directory: Path) -> AsyncIterator[tuple[str, TlsNats | TlsFront]]:
    """A URL that trusts the test's authority, and the end that `renew` renews."""
    if kind == "nats":
        nats = TlsNats(directory)
        nats.start()
        try:
            yield nats.url, nats
        finally:
            nats.stop()
        return
    with data_directory(kind) as data:
        engine = ValkeyServer(data / "engine") if kind == "redis" else PostgresServer(data / "engine")
        if isinstance(engine, PostgresServer):
            engine.initialise()
        await asyncio.to_thread(engine.start)
        front = TlsFront(directory, engine.port, asks=kind == "postgres")
        async with contextlib.AsyncExitStack() as stacked:
            stacked.callback(engine.stop)
            await stacked.enter_async_context(front.serving())
            root = front.authority.root
            if kind == "redis":
                yield f"rediss://127.0.0.1:{front.port}/0?ssl_ca_certs={root}", front
            else:
                words = f"sslmode=verify-full&sslrootcert={root}"
                yield f"postgresql://postgres@127.0.0.1:{front.port}/postgres?{words}", front


@pytest.mark.parametrize("kind", ["nats", "redis", "postgres"])
async def test_the_end_of_an_engines_certificate(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric says when it ends; a renewed one counts without a new connection of the engine; the check names it."""
    async with tls_engine(kind, tmp_path) as (url, end):
        monkeypatch.setenv(
            "SSL_CERT_FILE", str(tmp_path / "root.pem")
        )  # NATS' library takes the system's roots
        variable = "NARTHEX_STORE_URL" if kind == "postgres" else "NARTHEX_BROKER_URL"
        settings = load({"data_dir": tmp_path / "data"}, {"ENVIRONMENT": "testing", variable: url}, None)
        reach = reach_store if kind == "postgres" else reach_broker
        day = dt.datetime.now(dt.UTC) + dt.timedelta(days=FIRST_DAYS)
        assert f"TLS certificate until {day.date()}" in await reach(settings)
        engine = make_store(settings) if kind == "postgres" else make_broker(settings)
        meter = PrometheusMeter()
        watch = CertificateWatch({"engine": engine}, meter, every_s=0.05)
        await (engine.start() if kind == "postgres" else engine.start(Recorder(), "node"))  # type: ignore[call-arg]
        try:
            await watch.start()
            await until_days(meter, FIRST_DAYS)
            end.renew(RENEWED_DAYS)
            await until_days(meter, RENEWED_DAYS)
        finally:
            await watch.stop()
            await engine.stop()


class UnreadableEngine:
    """An engine with a certificate that OpenSSL took and the parser refuses."""

    def __init__(self) -> None:
        self.looks = 0
        self.looked_twice = asyncio.Event()

    def get_extra_info(self, _name: str) -> UnreadableEngine:
        """As a transport has it."""
        return self

    def getpeercert(self, *, binary_form: bool) -> bytes:
        """Not X.509."""
        return b"0\x03\x02\x01\x00" if binary_form else b""

    async def certificate_ends_at(self) -> float:
        """As an engine reads it."""
        self.looks += 1
        if self.looks > 1:
            self.looked_twice.set()
        return certificate_end(self)


async def test_a_certificate_that_cannot_be_parsed_ends_no_watch() -> None:
    """It has no known end; the watch goes on for the other engines, and `check --connect` says nothing of it."""
    engine, meter = UnreadableEngine(), PrometheusMeter()
    assert certificate_end(engine) == 0.0
    assert certificate_words(certificate_end(engine)) == []
    watch = CertificateWatch({"engine": engine}, meter, every_s=0.01)
    await watch.start()
    try:
        async with asyncio.timeout(within(15)):
            await engine.looked_twice.wait()
    finally:
        await watch.stop()
    assert "narthex_key_expiry_timestamp_seconds{" not in text_of(meter)


async def test_an_engine_without_tls_has_no_certificate(tmp_path: Path) -> None:
    """No series, and no alert, for a plain connection and for SQLite."""
    nats = NatsServer(tmp_path)
    nats.start()
    try:
        settings = load(
            {"data_dir": tmp_path}, {"ENVIRONMENT": "testing", "NARTHEX_BROKER_URL": nats.url}, None
        )
        broker, store, meter = make_broker(settings), make_store(settings), PrometheusMeter()
        watch = CertificateWatch({"broker": broker, "store": store}, meter, every_s=0.05)
        await broker.start(Recorder(), "node")
        assert await broker.certificate_ends_at() == 0.0  # type: ignore[attr-defined]
        await watch.start()
        await asyncio.sleep(0)
        await watch.stop()
        assert "TLS" not in await reach_broker(settings)
        assert "narthex_key_expiry_timestamp_seconds{" not in text_of(meter)
        await broker.stop()
    finally:
        nats.stop()


def text_of(meter: PrometheusMeter) -> str:
    """The metrics as a scraper reads them."""
    write, _ = meter.scraped("")
    return write().decode()


async def until_days(meter: PrometheusMeter, days: int) -> None:
    """Wait until the metric says that the certificate ends in so many days."""
    async with asyncio.timeout(within(15)):
        while True:
            found = re.search(
                r'narthex_key_expiry_timestamp_seconds\{key="tls:engine"\} (\S+)', text_of(meter)
            )
            if found and round((float(found[1]) - time.time()) / 86_400) == days:
                return
            await asyncio.sleep(0.05)
