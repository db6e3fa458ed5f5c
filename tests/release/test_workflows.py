"""The workflows of deploy/github that publish releases and documentation, as far as they can be held without GitHub."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tools.docs_build import Release, in_order, newest_of, unique

from tests.timing import within

GITHUB: Final = Path(__file__).parents[2] / "deploy" / "github"


def workflow(name: str) -> dict[str, Any]:
    """A workflow; YAML reads the key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load((GITHUB / name).read_text())
    return {"on" if key is True else key: value for key, value in found.items()}


def test_an_image_is_published_only_after_the_approval() -> None:
    """The environment `pypi` asks a person; the image and the notes wait for the same answer."""
    jobs = workflow("release.yml")["jobs"]
    assert jobs["pypi"]["environment"] == "pypi"
    for name in ("image", "notes"):
        assert {"build", "pypi"} <= set(jobs[name]["needs"])


def test_the_name_of_the_image_has_no_capital_letters(tmp_path: Path) -> None:
    """A registry refuses them, and owners on GitHub have them: the step itself, run."""
    steps = workflow("release.yml")["jobs"]["image"]["steps"]
    (step,) = [step for step in steps if step.get("id") == "image"]
    output = tmp_path / "output"
    environ = os.environ | {"GITHUB_REPOSITORY": "Acme-Labs/Narthex", "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environ, check=True, timeout=within(30))
    assert output.read_text() == "name=ghcr.io/acme-labs/narthex\n"
    (build,) = [step for step in steps if "build-push-action" in step.get("uses", "")]
    assert build["with"]["tags"] == "${{ steps.image.outputs.name }}:${{ github.ref_name }}"


def test_documentation_is_published_from_the_default_branch() -> None:
    """The environment github-pages takes no tags; a person can start it after a release."""
    found = workflow("docs.yml")
    assert found["on"] == {"push": {"branches": ["main"]}, "workflow_dispatch": None}
    assert found["jobs"]["build"]["permissions"] == {"contents": "read", "pages": "read"}
    assert found["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


@pytest.mark.parametrize("present", ["0.1.3", "0.1.5", "0.3.0.dev0", "0.2.1", "0.3.0"])
def test_the_newest_release_is_the_one_with_the_highest_number(present: str) -> None:
    """Also when the checkout is of an older minor version, which gets a patch."""
    tagged = [Release("0.2.1", "v0.2.1"), Release("0.1.4", "v0.1.4")]
    versions = unique(in_order([Release(present), *tagged]))
    expected = {
        "0.1.3": (["0.2.1", "0.1.4"], "0.2.1"),
        "0.1.5": (["0.2.1", "0.1.5"], "0.2.1"),
        "0.3.0.dev0": (["0.3.0.dev0", "0.2.1", "0.1.4"], "0.2.1"),
        "0.2.1": (["0.2.1", "0.1.4"], "0.2.1"),
        "0.3.0": (["0.3.0", "0.2.1", "0.1.4"], "0.3.0"),
    }[present]
    assert ([one.version for one in versions], newest_of(versions).version) == expected
    assert not present.startswith("0.2.1") or not versions[0].commit  # the checkout, not its tag


def test_while_there_is_no_release_the_development_version_is_the_newest() -> None:
    """The site's first page leads somewhere."""
    assert newest_of([Release("0.1.0.dev0")]).version == "0.1.0.dev0"
