"""`narthex check --platform P FILES`: reports where manifests disagree with the settings that they give to narthex.

Not here: reading and judging them (`narthex.deploy`). Rules: exit 0 without an error (warnings do not fail), 1 with
one, 2 for wrong usage, 69 when a chart cannot be rendered because helm is missing, 78 when a file cannot be parsed.
"""

from __future__ import annotations

import json
from pathlib import Path

from narthex.cli.arguments import usage
from narthex.cli.flags import SettingsFlags
from narthex.deploy.checking import Verdict, check_files
from narthex.deploy.demands import demands_of
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError


def check_manifests(
    platform: str | None, files: tuple[Path, ...], flags: SettingsFlags, *, as_json: bool
) -> int:
    """Check the files and print the findings. Raises ConfigError, DependencyError."""
    try:
        if platform is None:
            raise ClientError(
                "arguments",
                f"{str(files[0])[:60]!r} is given without --platform.",
                "Run narthex check --help.",
            )
        if not files:
            raise ClientError(
                "arguments", "--platform is given without a file.", "Name the manifests to check."
            )
        verdict = check_files(platform, files, demands_of(flags.settings()), flags.config)
    except ClientError as error:
        return usage(error)
    print(json.dumps(_report(verdict), indent=2) if as_json else _render(verdict))
    return EXIT_OK if verdict.ok else EXIT_FINDINGS


def _report(verdict: Verdict) -> dict[str, object]:
    return {
        "ok": verdict.ok,
        "workloads": verdict.workloads,
        "hops": verdict.hops,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "file": finding.place.file,
                "line": finding.place.line or None,
                "message": finding.message,
                "consequence": finding.consequence,
                "remedy": finding.remedy,
            }
            for finding in verdict.findings
        ],
    }


def _render(verdict: Verdict) -> str:
    lines: list[str] = []
    for finding in verdict.findings:
        lines += [
            f"{finding.place}: {finding.severity}: {finding.message} [{finding.code}]",
            f"    {finding.consequence}",
            f"    remedy: {finding.remedy}",
        ]
    errors = sum(finding.severity == "error" for finding in verdict.findings)
    warnings = len(verdict.findings) - errors
    checked = f"{verdict.workloads} workload(s), {verdict.hops} proxy route(s) or back end(s)"
    lines.append(f"{checked}: {errors} error(s), {warnings} warning(s)")
    return "\n".join(lines)
