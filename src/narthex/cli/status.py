"""`narthex status serve`: the status page as a service of its own; `narthex status export`: as static files."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from narthex.cli.arguments import usage
from narthex.cli.flags import Config, DataDir, LogFormat, LogLevel, serving_settings
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError
from narthex.settings import Settings, load

if TYPE_CHECKING:
    from narthex.status.document import StatusDocument

DEFAULT_PORT = 8003  # beside a gateway on 8000, a provider on 8001 and a worker on 8002

app = App(name="status", help="The public status page: run it as a separate service, or write it as files.")


@app.command
def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    data_dir: Path | None = None,
    public_url: str | None = None,
    root_path: str | None = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
    config: Path | None = None,
) -> int:
    """Serve /status until SIGTERM or Ctrl-C, without a gateway, a broker or a store.

    Gateways report with NARTHEX_STATUS_URL=<its URL>, probers with `narthex probe --report`; both with
    NARTHEX_STATUS_TOKEN. Operators change incidents with NARTHEX_ADMIN_KEY (`narthex incident --url`).

    Examples:
        narthex status serve --port 8080 --data-dir status-data

    Args:
        host: Address to listen on (development: 127.0.0.1; staging and production: 0.0.0.0).
        port: Port; default 8003.
        data_dir: Directory of status.db.
        public_url: Its URL as visitors see it, without a path, for the feed.
        root_path: Path under which visitors reach it behind a proxy that removes it, such as /uptime.
        log_format: json for machines, console for people.
        log_level: Least severe record that is written.
        config: The settings file instead of ./narthex.toml.
    """
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "public_url": public_url,
        "root_path": root_path,
        "log_format": log_format,
        "log_level": log_level,
    }
    settings = serving_settings(flags, config, DEFAULT_PORT, parts=())
    from narthex.status.process import serve as serve_status
    from narthex.wiring.start_checks import check_start

    check_start(settings, set(), agents=False)
    ended_well = serve_status(settings, lambda url: print(f"narthex status is ready at {url}", flush=True))
    return EXIT_OK if ended_well else EXIT_FINDINGS


@app.command
def export(
    directory: Path,
    *,
    base_url: str = "",
    url: str = "",
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Write the page as static files for a bucket or a web server.

    Of the status.db in the data directory, also while a server uses it, or of a running service by its URL. Run it
    every minute: each file is replaced in one step.

    Examples:
        narthex status export public/ --base-url https://status.example.com
        narthex status export public/ --url https://chat.example.com

    Args:
        directory: The folder; made where it is not there.
        base_url: Address under which visitors will read the folder, for links of the feed.
        url: A gateway or status service whose /status.json to write instead of the data directory's.
        data_dir: Directory of status.db.
        config: The settings file instead of ./narthex.toml; it has the page's look.
    """
    flags = {} if data_dir is None else {"data_dir": data_dir}
    settings = load(flags, os.environ, config, parts=())
    from narthex.settings.status_rules import branding
    from narthex.status import exporting
    from narthex.status.embedded import look_of
    from narthex.status.routes import Logo

    try:
        if not url and not (settings.data_dir / "status.db").exists():
            raise ClientError(
                "no_database",
                f"There is no {settings.data_dir / 'status.db'}.",
                "Give the --data-dir of the gateway or of narthex status serve, or --url.",
            )
        document = _fetched(url) if url else asyncio.run(_own(settings))
        logo = branding(settings).logo
        found = exporting.files(
            document, look_of(settings), Logo(*logo) if logo else None, base_url.rstrip("/")
        )
        exporting.write(directory, found)
    except ClientError as error:
        return usage(error)
    except OSError as error:
        return usage(
            ClientError(
                "bad_path", f"{directory} cannot be written ({error.strerror}).", "Name another folder."
            )
        )
    if not base_url:
        print("note: without --base-url the links of status.atom have no host.", file=sys.stderr)
    print(f"{len(found)} files in {directory}: {document.state}")
    return EXIT_OK


async def _own(settings: Settings) -> StatusDocument:
    from narthex.adapters.telemetry.logging import get_logger
    from narthex.status.embedded import make_service

    service = make_service(settings, get_logger("narthex.status"))
    try:
        return await service.document()
    finally:
        await service.stop()


def _fetched(url: str) -> StatusDocument:
    import msgspec

    from narthex.cli.operator_client import OperatorClient
    from narthex.status.document import StatusDocument

    with OperatorClient(url, None) as client:
        found = client.get("/status.json")
    try:
        return msgspec.convert(found, StatusDocument)
    except msgspec.ValidationError as fault:
        raise ClientError(
            "bad_document", f"{url}/status.json is not a status document ({fault}).", "Check the URL."
        ) from fault
