"""Pages whose commands change a Google Cloud project: each line is needed, and together they make what the page says.

Not here: the tutorials (`test_tutorials`), pipelines (`tests/deploy/test_pipelines.py`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from tests.docs.blocks import ROOT
from tests.docs.cloud_shell import Cloud, cloud_lines, needs_every_line
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(within(300))]
CONTEXT: Final = ("deploy", "src", "web", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE",
    "requirements-image.lock")  # fmt: skip
"""What the image is built from."""
PIPELINES: Final = ROOT / "docs" / "pipelines.md"
EXISTING: Final = (
    "gcloud auth login",
    "gcloud config set project acme",
    "gcloud services enable iam.googleapis.com",
    "gcloud iam service-accounts create chat",
    "gcloud config set project ''",
)
"""The service of another page, which pipelines deploy."""
DEPLOYER: Final = "deploy@acme.iam.gserviceaccount.com"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the project, from which a reader builds the image."""
    found = tmp_path / "checkout"
    found.mkdir()
    for name in CONTEXT:
        (found / name).symlink_to(ROOT / name)
    return found


async def test_cloud_run_in_an_hour(checkout: Path, tmp_path: Path) -> None:
    """The service and the load balancer of docs/deploy.md, from a checkout and an empty project."""
    cloud = Cloud(checkout, tmp_path)
    lines = cloud_lines(ROOT / "docs" / "deploy.md", "gcloud")
    assert await cloud.typed(lines) == ""
    # The rest is typed some twenty times: the manifests of this first time serve for all of them.
    rendered = tmp_path / "infra"
    shutil.copytree(cloud.here / "infra", rendered)
    cloud.program("narthex", f'if [ "$1" = deploy ]; then cp -r {rendered} infra; fi')

    def is_made(state: dict[str, Any]) -> bool:
        return bool(state["address"])

    await needs_every_line(cloud, lines, is_made)


async def test_a_service_without_a_network_does_not_reach_its_engines(checkout: Path, tmp_path: Path) -> None:
    """The project that is played refuses the service whose engines have private addresses: as Cloud Run does."""
    cloud = Cloud(checkout, tmp_path)
    lines = cloud_lines(ROOT / "docs" / "deploy.md", "gcloud")
    alone = [line.replace(" --network default --subnet default", "") for line in lines]
    assert alone != lines
    assert "narthex-broker-url names a private address" in await cloud.typed(alone)


async def test_the_stack_of_aws(tmp_path: Path) -> None:
    """The template of docs/deploy.md finds its parameters and its secrets."""
    here = tmp_path / "here"
    here.mkdir()
    cloud = Cloud(here, tmp_path)
    lines = cloud_lines(ROOT / "docs" / "deploy.md", "aws ")
    assert await cloud.typed(lines) == ""
    rendered = tmp_path / "aws"
    shutil.copytree(cloud.here / "aws", rendered)
    cloud.program("narthex", f'if [ "$1" = deploy ]; then cp -r {rendered} aws; fi')

    def is_made(state: dict[str, Any]) -> bool:
        return bool(state["stacks"])

    await needs_every_line(cloud, lines, is_made)


async def test_the_identity_of_a_pipeline(tmp_path: Path) -> None:
    """The commands of docs/pipelines.md let workflows of one repository become the account that deploys."""
    here = tmp_path / "here"
    here.mkdir()
    cloud = Cloud(here, tmp_path)

    def is_made(state: dict[str, Any]) -> bool:
        if "github" not in state["pools"].get("ci", {}):
            return False
        issuer, mapping, condition = state["pools"]["ci"]["github"]
        assert issuer == "https://token.actions.githubusercontent.com"
        assert "attribute.repository=assertion.repository" in mapping
        assert condition == "assertion.repository == 'acme/chat'"
        roles = [
            ["project", "roles/run.developer", f"serviceAccount:{DEPLOYER}"],
            ["project", "roles/artifactregistry.writer", f"serviceAccount:{DEPLOYER}"],
            [
                "chat@acme.iam.gserviceaccount.com",
                "roles/iam.serviceAccountUser",
                f"serviceAccount:{DEPLOYER}",
            ],
            [DEPLOYER, "roles/iam.workloadIdentityUser", "attribute.repository/acme/chat"],
        ]
        return all(role in state["roles"] for role in roles)

    await needs_every_line(cloud, cloud_lines(PIPELINES, "workload-identity"), is_made, EXISTING)


async def test_a_build_of_cloud_build(tmp_path: Path) -> None:
    """It has its account, its roles and its secret, and takes the substitutions that the file declares."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "deploy").symlink_to(ROOT / "deploy")
    cloud = Cloud(here, tmp_path)

    def is_made(state: dict[str, Any]) -> bool:
        return bool(state["builds"] == [DEPLOYER])

    before = [*EXISTING, *cloud_lines(PIPELINES, "workload-identity")]
    await needs_every_line(cloud, cloud_lines(PIPELINES, "builds submit"), is_made, before)
