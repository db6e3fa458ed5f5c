"""Readers: one a format, each from a file's text to the facts that it states.

Not here: judging the facts (`narthex.deploy.rules`). Rule: a reader never fails on a manifest of something else; it
finds nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from narthex.deploy.facts import Manifest
from narthex.deploy.readers import (
    caddy,
    cloud_run,
    cloudformation,
    commands,
    compose,
    envoy,
    haproxy,
    kubernetes,
    nginx,
    systemd,
    terraform,
    traefik,
)

Reader = Callable[[str, str], Manifest]


def _cloud_run(text: str, file: str) -> Manifest:
    """A service's YAML, Terraform, or `gcloud` commands in a script, a workflow or a Cloud Build file."""
    if file.endswith((".tf", ".tf.json")):
        return terraform.read(text, file)
    found = cloud_run.read(text, file) if file.endswith((".yaml", ".yml", ".json")) else Manifest()
    found.extend(commands.read(text, file))
    return found


READERS: Final[dict[str, Reader]] = {
    "cloud-run": _cloud_run,
    "alb": _cloud_run,
    "terraform": terraform.read,
    "aws": cloudformation.read,
    "kubernetes": kubernetes.read,
    "helm": kubernetes.read,
    "compose": compose.read,
    "systemd": systemd.read,
    "nginx": nginx.read,
    "haproxy": haproxy.read,
    "caddy": caddy.read,
    "envoy": envoy.read,
    "traefik": traefik.read,
}
