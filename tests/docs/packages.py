"""Files of pinned npm packages for tests: missing ones skip a test here and fail it in CI."""

from __future__ import annotations

from pathlib import Path

from tools.npm_packages import PackageUnavailable, npm_file

from tests.services import missing


def package_file(name: str, path: str) -> Path:
    """As `tools.npm_packages.npm_file`."""
    try:
        return npm_file(name, path)
    except PackageUnavailable as fault:
        missing(str(fault), "install Node and npm, and let npm reach its registry")
