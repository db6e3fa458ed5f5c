"""docs/scaling.md shows what benchmarks/scaling.py computes, and the computing makes sense."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_script_prints(scaling: ModuleType) -> None:
    """Otherwise: python benchmarks/scaling.py --write."""
    text = scaling.PAGE.read_text(encoding="utf-8")
    assert scaling.page_with(text, scaling.table(scaling.Profile())) == text


def test_a_set_up_carries_exactly_what_it_says(scaling: ModuleType) -> None:
    """At the limit the resource that breaks first is full, and no other one is over."""
    profile = scaling.Profile()
    for stage in scaling.STAGES:
        sockets, first = scaling.most(stage, profile)
        shares = scaling.shares(scaling.load_of(sockets, profile), stage, profile)
        assert shares[first] == pytest.approx(1, rel=1e-3)
        assert max(shares.values()) == shares[first]


def test_more_runs_need_more_cells(scaling: ModuleType) -> None:
    """Ten times the runs: the broker's appends decide, and the number of cells follows."""
    usual, busy = (scaling.stage_for(1_000_000, scaling.Profile(runs_per_hour=rate))[1] for rate in (2, 20))
    assert busy > 5 * usual
