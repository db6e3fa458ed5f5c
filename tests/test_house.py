"""The repository itself: locks that fit the ranges and name no host, a map whose paths exist, a suite that mirrors
it.
"""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import OPT_IN
from tests.generated import PAGES, stale

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-image.lock", "requirements-model.lock")


def pinned(lock: str) -> dict[str, str]:
    """Name → version of a lock."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def wanted(project: dict[str, object], extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for, with an extra and those that it names."""
    name, dependencies = str(project["name"]), project["dependencies"]
    extras = project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    found = [Requirement(text) for text in dependencies]
    waiting, seen = [extra] if extra else [], set()
    while waiting:
        current = waiting.pop()
        for requirement in map(Requirement, extras[current]):
            if requirement.name == name:
                waiting += [more for more in requirement.extras if more not in seen]
                seen |= requirement.extras
            else:
                found.append(requirement)
    return found


@pytest.mark.parametrize(
    ("lock", "extra"),
    [("requirements.lock", ""), ("requirements-dev.lock", "dev"), ("requirements-image.lock", "image")],
)
def test_the_locks_fit_the_ranges(lock: str, extra: str) -> None:
    """CI and users of the locks get the ranges of pyproject.toml; CONTRIBUTING.md describes how to renew them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = pinned(lock)
    for requirement in wanted(project, extra):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in {lock}"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"{requirement} in {lock}"


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_names_no_host(lock: str) -> None:
    """It must install from any index that a machine is configured for."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in re.sub(r"^[a-z].*$", "", text, flags=re.MULTILINE)
    assert text.count("--hash=sha256:") >= len(pinned(lock))


def test_generated_pages_are_current() -> None:
    """`python -m tests.check --write-docs` brings them up to date."""
    assert stale() == []


def test_every_page_that_says_it_is_generated_is_written_with_the_others() -> None:
    """A page that has a command of its own is forgotten."""
    marked = {
        f"docs/{page.name}"
        for page in (ROOT / "docs").glob("*.md")
        if re.search(
            r"\b(made|generated)\b[^\n]* from `?src/", page.read_text(encoding="utf-8"), re.IGNORECASE
        )
    }
    whole = {name for name in PAGES if name.startswith("docs/") and name.endswith(".md")}
    # Of these only a part is made: the table of metrics, diagrams, the facts of an alert.
    parts = {
        name for name in whole if name.startswith(("docs/operations.md", "docs/design.md", "docs/runbooks/"))
    }
    assert marked == whole - parts


def places_on_the_map() -> set[Path]:
    """The files and folders that docs/map.md names; a name may be relative to the folder of the one before it."""
    source = ROOT / "src" / "narthex"
    places = set()
    for line in (ROOT / "docs" / "map.md").read_text(encoding="utf-8").splitlines():
        folder = source
        for name in re.findall(r"`([\w./-]+)`", line.rpartition("|")[0].rpartition("|")[2]):
            found = next((base / name for base in (ROOT, source, folder) if (base / name).exists()), None)
            assert found is not None, f"{name} in: {line}"
            folder = found.parent if found.is_file() else found
            places.add(found)
    return places


def test_every_place_on_the_map_exists_and_every_module_is_on_it() -> None:
    """A map that names files which were removed is worse than none; a module that it lacks cannot be found."""
    source = ROOT / "src" / "narthex"
    places = places_on_the_map()
    lacking = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if path.name != "__init__.py" and places.isdisjoint((path, *path.parents))
    ]
    assert sorted(lacking) == []


def test_every_link_in_the_docs_leads_somewhere() -> None:
    """Between pages of the repository."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{target} in {page.relative_to(ROOT)}"


SHARED: Final = {
    *(
        "Run",
        "Interrupt",
        "Invitation",
        "LinkedThread",
        "Question",
        "ThreadLink",
        "Threads",
    ),  # both sides of a port
    *("Disconnect", "Results"),  # a body that is named as its route
}


def test_a_class_has_a_name_of_its_own() -> None:
    """One name, one thing (docs/decisions/0016-standard-names.md)."""
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    twice = {name: found for name, found in places.items() if len(found) > 1 and name not in SHARED}
    assert twice == {}


def test_every_folder_of_tests_is_a_package() -> None:
    """Or two files of one name would hide each other."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert (path.parent / "__init__.py").exists(), path


# -- references ------------------------------------------------------------------------------------------

PACKAGES = tuple(path.name for path in (ROOT / "src" / "narthex").iterdir() if path.is_dir())
TOPS = "|".join((*(name for name in PACKAGES if name != "static"), "tests", "docs", "src/narthex"))
PATHS = re.compile(
    rf"(?<![\w/.~:-])((?:{TOPS})(?:/[\w-]+)+(?:\.\w+)?|[\w-]+\.(?:py|md))(#[\w-]+)?(?![\w/*{{<])"
)
DOTTED = re.compile(rf"`(?:narthex\.)?((?:{'|'.join(PACKAGES)})(?:\.(?!py\b)\w+)+)")
TESTS = re.compile(r"`(test_\w+)`")
ELSEWHERE = {"api_jwt.py", "app.py", "myagents.py", "weather.py"}  # of another library, or of users


def prose(path: Path) -> list[str]:
    """The docstrings and comments of a file."""
    text = path.read_text(encoding="utf-8")
    found = [
        str(node.value.value)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return found + [token.string for token in tokens if token.type == tokenize.COMMENT]


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(path: Path, text: str, tests: set[str], names: set[str]) -> list[str]:
    """References in `text`, which stands in the file `path`, to what does not exist."""
    wrong = re.findall(
        r"(?:DESIGN|FACTS|STYLE) sections? [\d.]+", text
    )  # of files that are not in the repository
    bases = [ROOT, ROOT / "src" / "narthex", *path.parents]
    for name, anchor in PATHS.findall(text):
        if "/" not in name and name in names | ELSEWHERE:
            continue
        if re.fullmatch(r"docs/decisions/\d{4}", name):
            name = next((f"docs/decisions/{page.name}" for page in ROOT.glob(f"{name}-*.md")), name)
        place = next((p for base in bases for p in (base / name, base / f"{name}.py") if p.exists()), None)
        if place is None or (anchor and place.suffix == ".md" and anchor[1:] not in anchors(place)):
            wrong.append(name + anchor)
    for dotted in DOTTED.findall(text):
        module, rest = ROOT / "src" / "narthex", dotted.split(".")
        while rest and ((module / rest[0]).is_dir() or (module / f"{rest[0]}.py").exists()):
            module /= rest.pop(0)
        source = module.with_suffix(".py") if module.with_suffix(".py").exists() else module / "__init__.py"
        if rest and not re.search(rf"\b{rest[0]}\b", source.read_text(encoding="utf-8")):
            wrong.append(dotted)
    wrong += [name for name in TESTS.findall(text) if name not in tests]
    return wrong


def test_every_reference_of_the_code_leads_somewhere() -> None:
    """A docstring or comment names files, modules, headings of pages and tests that exist."""
    sources = [path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")]
    names = {path.name for path in sources} | {path.name for path in (ROOT / "docs").rglob("*.md")}
    tests = {path.stem for path in sources}
    for path in sources:
        tests |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources
        for text in prose(path)
        for name in leads_nowhere(path, text, tests, names)
    }
    assert sorted(wrong) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see app/subscriptions", ["app/subscriptions"]),
        ("see `app/hub/hub.py`", []),
        ("see docs/design.md#limits", []),
        ("see docs/design.md#no-such-heading", ["docs/design.md#no-such-heading"]),
        ("`domain.refusals.TABLE`", []),
        ("`domain.refusals.NOTHING`", ["domain.refusals.NOTHING"]),
        ("shown by `test_nothing_of_the_kind`", ["test_nothing_of_the_kind"]),
        ("see nowhere.py", ["nowhere.py"]),
        ("of DESIGN section 8", ["DESIGN section 8"]),
        ("(FACTS section 7)", ["FACTS section 7"]),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(text: str, wrong: list[str]) -> None:
    """Each kind of reference, right and wrong."""
    assert leads_nowhere(ROOT / "src" / "narthex" / "errors.py", text, set(), {"hub.py"}) == wrong


def pytest_on(folder: Path, source: str, *words: str, ci: bool = False) -> subprocess.CompletedProcess[str]:
    """The suite's own rules on one file of tests."""
    (folder / "test_sample.py").write_text(source)
    environ = {name: value for name, value in os.environ.items() if name != "CI"} | {"PYTHONPATH": str(ROOT)}
    if ci:
        environ["CI"] = "true"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(folder),
    ]
    return subprocess.run(
        [*command, "-p", "tests.conftest", "-p", "no:cacheprovider", str(folder / "test_sample.py"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ,
        timeout=60,
        check=False,
    )


SKIPS = (
    "import pytest\n\ndef test_skips():\n    pytest.skip('no such service')\n\ndef test_good():\n    pass\n"
)


def test_a_skip_is_a_skip_here_and_a_failure_in_ci(tmp_path: Path) -> None:
    """A suite that was skipped has proved nothing."""
    assert "1 passed, 1 skipped" in pytest_on(tmp_path, SKIPS).stdout
    done = pytest_on(tmp_path, SKIPS, ci=True)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "no such service" in done.stdout


def test_opt_in_suites_run_when_they_are_named(tmp_path: Path) -> None:
    """And are left out otherwise."""
    source = "import pytest\n\n" + "".join(
        f"@pytest.mark.{marker}\ndef test_{marker}():\n    pass\n\n" for marker in OPT_IN
    )
    source += "def test_plain():\n    pass\n"
    assert f"1 passed, {len(OPT_IN)} deselected" in pytest_on(tmp_path, source).stdout
    assert "1 passed, 3 deselected" in pytest_on(tmp_path, source, "-m", "soak").stdout
