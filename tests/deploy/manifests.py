"""Manifests in a directory, as `narthex deploy render` writes them, and the findings about a changed copy of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from narthex.deploy.checking import Verdict, check_files
from narthex.deploy.demands import demands_of
from narthex.deploy.rendering import DeploymentTarget, render
from narthex.settings import Settings, load

NO_FILE = Path(os.devnull)


def settings_from(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings of these variables alone."""
    return load({}, environ or {}, NO_FILE)


def written(
    folder: Path,
    platform: str,
    environ: Mapping[str, str] | None = None,
    target: DeploymentTarget | None = None,
) -> dict[str, Path]:
    """The files of a platform, written below `folder`."""
    found: dict[str, Path] = {}
    for name, text in render(platform, settings_from(environ), target or DeploymentTarget()).items():
        path = found[name] = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return found


def verdict(platform: str, *paths: Path, environ: Mapping[str, str] | None = None) -> Verdict:
    """What `narthex check --platform` finds."""
    return check_files(platform, paths, demands_of(settings_from(environ)), NO_FILE)
