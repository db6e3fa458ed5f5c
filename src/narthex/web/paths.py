"""The two parts of a request's path: the root under which clients reach the application, and the route below it.

A proxy that removes a path (`NARTHEX_ROOT_PATH`, uvicorn's `--root-path`) and a mount make the same `root_path` of
ASGI. Rules: routes are matched without it, and every path that leaves in an answer begins with it; no header of a
request changes it, because a client could then choose where links lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def root_path(scope: Mapping[str, Any]) -> str:
    """ASGI's `root_path`, without a slash at its end; empty at the root of the host."""
    root: str = scope.get("root_path") or ""
    return root.rstrip("/")


def route_path(scope: Mapping[str, Any]) -> str:
    """The path below the root, as Starlette's routes see it."""
    path: str = scope["path"]
    root = root_path(scope)
    return path[len(root) :] if root and path.startswith(root + "/") else path


def below_root(path: str, scope: Mapping[str, Any]) -> str:
    """A path of this site as its clients see it: one that names a route gets the root, one with it already stays."""
    root = root_path(scope)
    return path if path == root or (path.startswith(root + "/") and root) else root + path
