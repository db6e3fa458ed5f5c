"""Builds a release: sdist and wheel, checksums, a bill of materials, and a note of what they were built from.

    python tools/release.py OUT        # needs: pip install build cyclonedx-bom (both in the extra `dev`)

The wheel is built from the sdist, as installers do that find no wheel. Both are built twice, from two copies of the
committed files and at two paths; a byte that differs ends the release. Not here: publishing, signing
(docs/releasing.md).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TIMEOUT_S: Final = 600  # npm ci on a cold cache is most of it
SPEC: Final = "1.6"  # of CycloneDX


class Unfit(Exception):
    """The release cannot be made; the text says why."""


def main(words: list[str] | None = None) -> int:
    """Build into the directory that was named; exits 1 with a sentence when it cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="directory of the release, made if it is not there")
    parser.add_argument("--commit", default="HEAD", help="what to build (default: HEAD)")
    given = parser.parse_args(words)
    try:
        for path in release(given.out, given.commit):
            print(f"{digest(path)}  {path.name}")
    except Unfit as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


def release(out: Path, commit: str = "HEAD") -> list[Path]:
    """Make every file of a release in `out`; returns them, `SHA256SUMS` last.

    Raises:
        Unfit: a build failed, or two builds differ.
    """
    out.mkdir(parents=True, exist_ok=True)
    commit = run("git", "rev-parse", f"{commit}^{{commit}}", cwd=ROOT)
    epoch = run("git", "log", "-1", "--format=%ct", commit, cwd=ROOT)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        print("building, the first of two times", file=sys.stderr)
        built = build(Path(first), commit, epoch)
        print("building again, at another path", file=sys.stderr)
        again = build(Path(second) / "deeper", commit, epoch)
        for one, other in zip(built, again, strict=True):
            if one.name != other.name or digest(one) != digest(other):
                raise Unfit(
                    f"{one.name} differs between two builds of {commit[:12]}. Compare them: diffoscope."
                )
        files = [Path(shutil.copy(path, out)) for path in built]
        source = Path(first) / "source"
        stem = out / files[1].name.split("-py3")[0]
        bom = stem.with_name(stem.name + ".cdx.json")
        bom.write_text(json.dumps(bill_of_materials(source, commit), indent=1, sort_keys=True) + "\n")
    note = stem.with_name(stem.name + ".provenance.json")
    note.write_text(json.dumps(provenance(files, commit, epoch), indent=1, sort_keys=True) + "\n")
    made = [*files, bom, note]
    sums = out / "SHA256SUMS"
    sums.write_text("".join(f"{digest(path)}  {path.name}\n" for path in made))
    return [*made, sums]


def build(directory: Path, commit: str, epoch: str) -> list[Path]:
    """The sdist and the wheel of `commit`, made from a fresh copy of its files. `epoch`: every file's time."""
    source, out = directory / "source", directory / "dist"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=source, check=True)
    environ = os.environ | {"SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0"}
    run(sys.executable, "-m", "build", "--outdir", str(out), str(source), cwd=directory, env=environ)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return [sdist, wheel]


def bill_of_materials(source: Path, commit: str) -> dict[str, Any]:
    """CycloneDX: what `pip install narthex` installs at the versions that are tested, and what the pages bundle.

    Args:
        source: the release's files: requirements.lock, pyproject.toml, web/package-lock.json.
        commit: what they are of. The serial number, without which actions/attest-sbom refuses the file, is made of
            it, because a random one would differ between two builds.
    """
    text = run(
        *(sys.executable, "-m", "cyclonedx_py", "requirements", "requirements.lock"),
        *("--pyproject", "pyproject.toml", "--output-reproducible", "--sv", SPEC, "--of", "JSON"),
        cwd=source,
    )
    bom: dict[str, Any] = json.loads(text)
    bom["metadata"]["component"]["version"] = version = version_of(source)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"pkg:pypi/narthex@{version}#{commit}")
    bom["serialNumber"] = f"urn:uuid:{serial}"
    bom["components"] += bundled_components(source / "web/package-lock.json")
    return bom


def bundled_components(lock: Path) -> list[dict[str, str]]:
    """The npm packages whose code is in the wheel's pages: those that are not needed to build or test alone."""
    packages: dict[str, dict[str, Any]] = json.loads(lock.read_text())["packages"]
    found = []
    for path, facts in sorted(packages.items()):
        if not path.startswith("node_modules/") or facts.get("dev") or facts.get("link"):
            continue
        name, version = path.rpartition("node_modules/")[2], facts["version"]
        purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
        found.append({"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl})
    return found


def provenance(files: list[Path], commit: str, epoch: str) -> dict[str, Any]:
    """An in-toto statement with SLSA's predicate: which commit, which builder, which versions. Unsigned."""
    node = shutil.which("node")
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": path.name, "digest": {"sha256": digest(path)}} for path in files],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "python tools/release.py OUT",
                "externalParameters": {"commit": commit, "SOURCE_DATE_EPOCH": int(epoch)},
                "internalParameters": {
                    "python": platform.python_version(),
                    "node": run(node, "--version", cwd=ROOT) if node else "",
                },
                "resolvedDependencies": [{"uri": "git+HEAD", "digest": {"gitCommit": commit}}],
            },
            "runDetails": {"builder": {"id": os.environ.get("GITHUB_WORKFLOW_REF", "a developer's machine")}},
        },
    }


def version_of(source: Path) -> str:
    """The version, from the one place that has it."""
    names: dict[str, str] = {}
    exec((source / "src/narthex/_version.py").read_text(), names)
    return names["__version__"]


def digest(path: Path) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*words: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """A program's output, stripped. Raises Unfit with the end of its output when it fails."""
    done = subprocess.run(
        words, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        raise Unfit(f"{' '.join(words[:4])} … failed: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
