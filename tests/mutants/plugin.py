"""A pytest plugin that records which test executes which line, and the import hook that puts a mutant in place.

Not here: who starts pytest with them (run.py, child.py). Rules: both begin before anything of narthex is imported;
without the environment variable the plugin does nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

import pytest

MAP: Final = "NARTHEX_TEST_MUTANT_MAP"
"""Names the coverage data file that a mapping run writes."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module from the mutant's source, as if it stood in the module's own file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._mutated = source

    def get_code(self, fullname: str) -> CodeType:
        """Compiled again: no bytecode cache contains a mutant."""
        return compile(self._mutated, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, path: str, source: str) -> None:
        self._module, self._path, self._source = module, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Only the mutant's own module."""
        del path, target
        if fullname != self._module:
            return None
        loader = _Loader(fullname, self._path, self._source)
        package = [str(Path(self._path).parent)] if Path(self._path).name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname, self._path, loader=loader, submodule_search_locations=package
        )


def install(mutant: str) -> None:
    """Import the source that a JSON file `{"module": …, "path": …, "source": …}` holds for that module.

    Call it before anything of narthex is imported. An empty object changes nothing.
    """
    told: dict[str, str] = json.loads(Path(mutant).read_text(encoding="utf-8"))
    if told:
        sys.meta_path.insert(0, _Finder(told["module"], told["path"], told["source"]))


class _Mapping:
    """One coverage context a test."""

    def __init__(self, data_file: str) -> None:
        from coverage import Coverage

        self._coverage = Coverage(data_file=data_file, source=["narthex"], config_file=False)
        self._coverage.load()  # what is there stays: a run of some tests adds to the map
        self._coverage.start()
        self._durations_file = Path(data_file).with_suffix(".durations.json")
        self.durations: dict[str, float] = (
            json.loads(self._durations_file.read_text(encoding="utf-8"))
            if self._durations_file.exists()
            else {}
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Lines that run from set-up to tear-down belong to the test."""
        self.durations.pop(item.nodeid, None)
        self._coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """How long each test takes; one that fails or is skipped cannot judge a mutant."""
        if report.outcome != "passed":
            self.durations[report.nodeid] = -1.0
        elif self.durations.get(report.nodeid, 0.0) >= 0.0:
            self.durations[report.nodeid] = self.durations.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Write both files. A module that this run did not import is no fault of it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._coverage.stop()
            self._coverage.save()
        self._durations_file.write_text(json.dumps(self.durations), encoding="utf-8")


# Begun when this module is imported: before any conftest, which may import narthex.
_mapping: Final = _Mapping(os.environ[MAP]) if os.environ.get(MAP) else None


def pytest_configure(config: pytest.Config) -> None:
    """Map the tests, when asked."""
    if _mapping is not None:
        config.pluginmanager.register(_mapping, "narthex-mutants-map")
