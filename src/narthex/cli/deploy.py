"""`narthex deploy render`: writes the manifests of a platform from one's settings.

Not here: the templates and the numbers (`narthex.deploy`). Rules: nothing is deployed; a secret's value is never
written; existing files are replaced only with --force.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from narthex.cli.arguments import usage
from narthex.cli.flags import NO_FLAGS, SettingsFlags
from narthex.errors import EXIT_OK, ClientError

Platform = Literal[
    "cloud-run", "alb", "terraform", "aws", "kubernetes", "helm", "compose", "systemd", "nginx", "haproxy", "caddy",
    "envoy", "traefik",
]  # fmt: skip
"""`narthex.deploy.rendering.PLATFORMS`, as a type (a test compares)."""

app = App(name="deploy", help="Write the manifests of a deployment.")


@app.command
def render(
    flags: SettingsFlags = NO_FLAGS,
    *,
    platform: Platform,
    out: Path | None = None,
    force: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    name: str = "narthex",
    image: str = "",
    domain: str = "",
    project: str = "",
    project_number: str = "",
    region: str = "",
    network: str = "",
    subnet: str = "",
    upstream: str = "",
    program: str = "",
    min_instances: int = 2,
    max_instances: int = 10,
) -> int:
    """Write the manifests of a platform from these settings.

    Grace, ping interval, rotation, time-outs, limits, memory and open files come from one model, so that they agree.
    Without --out the files go to standard output. Check what you have with `narthex check --platform`.

    Examples:
        narthex deploy render --platform cloud-run --project acme --out deploy
        NARTHEX_DRAIN_GRACE_S=25 narthex deploy render --platform kubernetes
        narthex deploy render --platform nginx --upstream 10.0.0.7:8000

    Args:
        flags: as for serve.
        platform: where it is to run, or the proxy in front.
        out: directory for the files.
        force: replace files that are there.
        name: of the service.
        image: of the container.
        domain: under which clients reach it; default: of NARTHEX_PUBLIC_URL or NARTHEX_ALLOWED_HOSTS.
        project: of Google Cloud.
        project_number: of Google Cloud, which is in the hosts of revision tags.
        region: of Google Cloud.
        network: VPC of Google Cloud through which Cloud Run reaches private addresses, such as those of the engines.
        subnet: of that network, in the region.
        upstream: host:port of the gateway, for a proxy; default: this machine, and the port of the settings.
        program: path of narthex, for systemd.
        min_instances: instances that always run.
        max_instances: most instances; 1 lets the embedded engines serve.
    """
    from narthex.deploy import rendering

    settings = flags.settings()
    given = {
        "image": image,
        "domain": domain or _domain(settings.public_url, settings.allowed_hosts),
        "project": project,
        "project_number": project_number,
        "region": region,
        "network": network,
        "subnet": subnet,
        "upstream": upstream or (f"127.0.0.1:{settings.port}" if settings.port else ""),
        "program": program,
    }
    target = rendering.DeploymentTarget(
        name=name,
        min_instances=max(0, min_instances),
        max_instances=max(1, max_instances),
        **{key: value for key, value in given.items() if value},
    )
    files = rendering.render(platform, settings, target)
    if out is None:
        for path, text in files.items():
            print(f"# ---- {path}\n{text}" if len(files) > 1 else text, end="")
    else:
        try:
            _write(out, files, force=force)
        except ClientError as error:
            return usage(error)
    for note in _notes(
        settings.issuers or settings.users or settings.plans,
        target.image == rendering.DeploymentTarget().image,
        platform in ("cloud-run", "terraform") and target.max_instances > 1 and not (network or subnet),
    ):
        print(f"note: {note}", file=sys.stderr)
    return EXIT_OK


def _domain(public_url: str, hosts: tuple[str, ...]) -> str:
    from urllib.parse import urlsplit

    named = [host for host in hosts if not host.startswith("*")]
    return urlsplit(public_url).hostname or (named[0] if named else "")


def _write(out: Path, files: dict[str, str], *, force: bool) -> None:
    there = [path for path in files if (out / path).exists()]
    if there and not force:
        raise ClientError(
            "exists", f"{out / there[0]} is there already.", "Name another --out, or replace it with --force."
        )
    try:
        for path, text in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_text(text, encoding="utf-8")
            print(f"written: {out / path}")
    except OSError as error:
        raise ClientError(
            "bad_path", f"{out} cannot be written: {error.strerror}.", "Name another --out."
        ) from error


def _notes(tables: object, placeholder: bool, unreachable: bool) -> list[str]:
    found = []
    if tables:
        found.append(
            "[[issuers]], [[users]] and [plans] have no variables: put narthex.toml into the image (/app)."
        )
    if placeholder:
        found.append(
            "The image and what else is not known are examples; --image, --domain and --project set them."
        )
    if unreachable:
        found.append(
            "Cloud Run reaches public addresses only; --network and --subnet open the way to engines at private ones."
        )
    return found
