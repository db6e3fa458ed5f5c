"""Builds the documentation site: of this checkout, or of every release beside each other with a switcher.

Not here: what the build does with the pages (`docs_site`, mkdocs.yml), taking pictures (`tests.docs.pictures`).
Rules: the releases are the repository's tags, of each minor version the newest; a release older than mkdocs.yml is
built with today's configuration, whose navigation then leaves out the pages that the release lacks, and without the
strictness that its pages never met. A site of several versions has one directory for each:

    index.html      leads to the newest release
    versions.json   for Material's switcher, which is shown where a server serves the site
    0.1/, dev/      sites
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
DEVELOPMENT: Final = "dev"
BEFORE_TAGS: Final = {"0.1.0": "03a2c350e65038efdf237587788247057478b480"}
"""Releases that were made before releases were tagged: version → commit."""
_TAG: Final = re.compile(r"v(\d+\.\d+\.\d+)")
_VERSION: Final = re.compile(r'__version__ = "([^"]+)"')
_LEADING: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>narthex</title>
<meta http-equiv="refresh" content="0; url={directory}/index.html">
<link rel="canonical" href="{directory}/index.html">
<p><a href="{directory}/index.html">The documentation of narthex {version}</a></p>
</html>
"""


class Release(NamedTuple):
    """A version of the site. `commit` is empty for the checkout as it is."""

    version: str
    commit: str = ""

    @property
    def directory(self) -> str:
        """In the site: the minor version, or `dev`."""
        return DEVELOPMENT if not self.commit and ".dev" in self.version else minor(self.version)


def build_site(
    root: Path, into: Path, *, pictures: Path | None = None, release: str = "", strict: bool = True
) -> bool:
    """Build the site of a checkout; a link, an anchor or a page that is missing fails a strict build.

    Args:
        root: of the checkout.
        into: the directory of the site. It is emptied first.
        pictures: a directory of pictures that replace those of docs/images; its `-dark` ones are shown in dark mode.
        release: the site's directory beside other versions; the pages then have a switcher.
        strict: False: only what MkDocs calls an error fails.
    """
    command = [sys.executable, "-m", "mkdocs", "build", *(["--strict"] if strict else ["--quiet"])]
    command += ["--config-file", str(root / "mkdocs.yml"), "--site-dir", str(into)]
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",  # docs/decisions/0023-mkdocs-material.md knows of it
        "NARTHEX_SITE_PICTURES": str(pictures or ""),
        "NARTHEX_SITE_RELEASE": release,
        "NARTHEX_SITE_WHOLE": "1" if strict else "",
    }
    return (
        subprocess.run(command, check=False, env=environment, cwd=root).returncode == 0
    )  # hooks import `tools`


def build_versions(into: Path, *, pictures: Path | None = None) -> bool:
    """Build the sites of every release and of this checkout below `into`, which is emptied first.

    Raises:
        LookupError: the repository lacks the commit of a release.
    """
    versions = in_order([Release(present_version()), *releases()])
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    built = [_built(release, into / release.directory, pictures) for release in unique(versions)]
    newest = newest_of(unique(versions))
    listed = [
        {
            "version": one.directory,
            "title": one.version,
            "aliases": ["latest"] if one == newest else [],
        }
        for one in unique(versions)
    ]
    (into / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (into / "index.html").write_text(
        _LEADING.format(directory=newest.directory, version=newest.version), encoding="utf-8"
    )
    return all(built)


def _built(release: Release, into: Path, pictures: Path | None) -> bool:
    if not release.commit:
        return build_site(ROOT, into, pictures=pictures, release=release.directory)
    with tempfile.TemporaryDirectory(prefix="narthex-docs-") as directory:
        root = Path(directory)
        export(release, root)
        own = (root / "mkdocs.yml").is_file()
        if not own:
            shutil.copy(ROOT / "mkdocs.yml", root)
            shutil.copytree(ROOT / "tools", root / "tools", dirs_exist_ok=True)
        return build_site(root, into, release=release.directory, strict=own)


def export(release: Release, into: Path) -> None:
    """Write the files of a release's commit.

    Raises:
        LookupError: the repository lacks the commit.
    """
    done = subprocess.run(["git", "archive", release.commit], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise LookupError(
            f"This clone lacks the commit {release.commit} of {release.version}. Run: git fetch --unshallow --tags"
        )
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")


def releases() -> list[Release]:
    """The newest release of each minor version, the newest first."""
    listed = subprocess.run(
        ["git", "tag", "--list", "v*"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    tagged = [Release(found[1], tag) for tag in listed if (found := _TAG.fullmatch(tag))]
    everything = tagged + [Release(version, commit) for version, commit in BEFORE_TAGS.items()]
    return unique(sorted(everything, key=lambda one: numbers(one.version), reverse=True))


def in_order(versions: list[Release]) -> list[Release]:
    """The development version, then the releases, the newest first: the checkout may be of an older minor version.

    Of two with one number the one that comes first stays first.
    """
    developed = [one for one in versions if one.directory == DEVELOPMENT]
    released = [one for one in versions if one.directory != DEVELOPMENT]
    return developed + sorted(released, key=lambda one: numbers(one.version), reverse=True)


def newest_of(versions: list[Release]) -> Release:
    """The newest release, or the development version while there is no release."""
    return next((one for one in versions if one.directory != DEVELOPMENT), versions[0])


def unique(versions: list[Release]) -> list[Release]:
    """The first of each directory."""
    first: dict[str, Release] = {}
    for one in versions:
        first.setdefault(one.directory, one)
    return list(first.values())


def present_version() -> str:
    """Of this checkout."""
    found = _VERSION.search((ROOT / "src" / "narthex" / "_version.py").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def minor(version: str) -> str:
    """`0.2` of `0.2.1`."""
    return ".".join(version.split(".")[:2])


def numbers(version: str) -> tuple[int, ...]:
    """For comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
