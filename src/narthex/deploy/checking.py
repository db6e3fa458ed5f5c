"""Checks manifests: reads each file, derives what its own settings demand, and collects the findings.

Not here: formats (`readers`), rules (`rules`), the command (`narthex.cli.check`). Rules: a workload is checked by the
settings that its own variables come to, a hop by those of a workload beside it, else by the caller's; nothing is
started or asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from narthex.deploy.demands import Demands, demands_of
from narthex.deploy.environment import settings_of, unknown_variables
from narthex.deploy.facts import Manifest, ManifestFinding
from narthex.deploy.readers import READERS
from narthex.deploy.rules import check_agreement, check_hop, check_workload
from narthex.errors import ClientError, ConfigError, DependencyError
from narthex.extras import program_path

KUBERNETES = "v1.33.0"  # for charts that ask: a helm built from source would name a version of 2020
MAX_BYTES = 4 * 2**20  # a manifest is text that people write
MEASURES = frozenset(
    f"NARTHEX_{name}"
    for name in (
        "DRAIN_GRACE_S",
        "MAX_SOCKET_LIFE_S",
        "PING_INTERVAL_S",
        "PONG_TIMEOUT_S",
        "MAX_CONNECTIONS",
        "WORKERS",
    )
)
"""Variables whose values the demands are made of."""
DISAGREEMENTS = frozenset(
    {"request_timeout", "backend_timeout", "idle_timeout", "grace", "concurrency", "memory", "open_files"}
)
"""Codes of findings that compare the manifest with the demands."""


class Verdict(NamedTuple):
    """What was read, and the findings in the order of the files."""

    workloads: int
    hops: int
    findings: list[ManifestFinding]

    @property
    def ok(self) -> bool:
        """Whether nothing is an error."""
        return not any(finding.severity == "error" for finding in self.findings)


def check_files(platform: str, paths: Sequence[Path], settings: Demands, config: Path | None) -> Verdict:
    """Check manifests.

    Args:
        platform: a name of `readers.READERS`.
        paths: files, or directories whose files of the format are read; for `helm` a chart's directory too.
        settings: demands of the caller's settings, for hops without a workload beside them.
        config: the settings file that the workloads are given.

    Raises:
        ClientError: a path does not exist, or nothing in the files is of the platform.
        ConfigError: a file cannot be parsed, or the extra is missing.
        DependencyError: a chart, and helm is not installed.
    """
    found = Manifest()
    for text, name in _texts(platform, paths):
        found.extend(READERS[platform](text, name))
    found.scale()
    if not found.workloads and not found.hops:
        names = ", ".join(str(path) for path in paths)
        raise ClientError(
            "nothing_found",
            f"No part of {names} is a manifest of {platform}.",
            "Name the files, or another --platform.",
        )
    findings: list[ManifestFinding] = []
    demands, unknown = settings, False
    for workload in found.workloads:
        own = settings_of(workload, config)
        findings += check_workload(workload)
        if isinstance(own, list):
            findings += own
            continue
        unknown = not MEASURES.isdisjoint(unknown_variables(workload))
        findings += _as_known(check_agreement(workload, own), unknown)
        demands = demands_of(own)
        if workload.platform == "cloud-run":
            demands = msgspec.structs.replace(demands, socket_life_s=own.socket_life_s())
    for hop in found.hops:
        findings += _as_known(check_hop(hop, demands), unknown)
    order = {str(path): number for number, path in enumerate(paths)}
    findings.sort(key=lambda one: (order.get(one.place.file, len(order)), one.place.file, one.place.line))
    return Verdict(len(found.workloads), len(found.hops), list(dict.fromkeys(findings)))


def _as_known(findings: Iterable[ManifestFinding], unknown: bool) -> Iterator[ManifestFinding]:
    """The findings; a disagreement with a setting of unknown value may be none, and is a warning."""
    for finding in findings:
        uncertain = unknown and finding.code in DISAGREEMENTS
        yield finding._replace(severity="warning") if uncertain else finding


SUFFIXES = {
    "cloud-run": (".yaml", ".yml", ".json", ".tf", ".sh"),
    "alb": (".yaml", ".yml", ".tf", ".sh"),
    "terraform": (".tf",),
    "systemd": (".service", ".conf"),
    "nginx": (".conf",),
    "haproxy": (".cfg",),
    "caddy": ("Caddyfile",),
}


def _texts(platform: str, paths: Sequence[Path]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in paths:
        if platform == "helm" and (path / "Chart.yaml").exists():
            found.append((_helm(path), str(path)))
            continue
        files = [path]
        if path.is_dir():
            endings = SUFFIXES.get(platform, (".yaml", ".yml"))
            files = [
                file for file in sorted(path.rglob("*")) if file.is_file() and file.name.endswith(endings)
            ]
        found += [(_read(file), str(file)) for file in files]
    return found


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ClientError("too_large", f"{path} is larger than 4 MiB.", "Name a manifest.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ClientError("unreadable", f"{path} cannot be read: {reason}.", "Name a manifest.") from error


def _helm(chart: Path) -> str:
    import subprocess

    helm = program_path("helm")
    if helm is None:
        raise DependencyError(
            "helm", "A chart is rendered by helm, which is not installed.",
            "Install helm, or check the output of `helm template` with --platform kubernetes.",
        )  # fmt: skip
    done = subprocess.run(  # noqa: S603 - a program of that name, and the chart that the operator names
        [helm, "template", "narthex", str(chart), "--kube-version", KUBERNETES],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise ConfigError([f"helm cannot render {chart}: {done.stderr.strip()[-500:]}"])
    return done.stdout
