"""Stands for `pip` where a test follows a page: checks that what it would install is installed here, and installs
nothing.

Rules: `install` only; a requirement that is missing, or an extra that narthex does not have, is exit code 1 with its
name.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

ROOT = Path(__file__).parents[2]


def requirements(words: list[str]) -> list[str]:
    """The requirements that the words of `pip install` name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    found: list[str] = []
    following = iter(words)
    for word in following:
        if word == "-r":
            lines = Path(next(following)).read_text(encoding="utf-8").splitlines()
            found += [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]
        elif word in ("-e", "-q", "--quiet", "-U", "--upgrade"):
            continue
        else:
            found.append(word)
    wanted: list[str] = []
    for one in found:
        name, _, rest = one.partition("[")
        if name not in (".", "narthex"):
            wanted.append(one)
            continue
        wanted += project["dependencies"]
        for extra in filter(None, rest.rstrip("]").split(",")):
            if extra not in extras:
                sys.exit(f"narthex has no extra {extra!r}")
            wanted += [need for need in extras[extra] if not need.startswith("narthex")]
    return wanted


def main() -> None:
    """Check `pip install …`."""
    if sys.argv[1:2] != ["install"]:
        sys.exit(f"the tests' pip has only install, not {sys.argv[1:]}")
    for text in requirements(sys.argv[2:]):
        try:
            need = Requirement(text)
            there = version(need.name)
        except InvalidRequirement:
            sys.exit(f"{text!r} is no requirement")
        except PackageNotFoundError:
            if need.marker is None or need.marker.evaluate():
                sys.exit(f"{text} is not installed here")
            continue
        if not need.specifier.contains(there, prereleases=True):
            sys.exit(f"{text} is asked for, and {there} is installed here")


if __name__ == "__main__":
    main()
