"""Every fenced block of README and docs holds: commands are understood, configurations load, programs run.

Not here: blocks themselves (`blocks`). Rules: no block is skipped silently; one that cannot be run here has a marker
with the reason.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import CoercionError, CycloptsError, MissingArgumentError

import narthex
from narthex.cli.commands import COMMANDS
from narthex.cli.main import application
from narthex.settings import load
from tests.acceptance.program import Program, clean_environment, running
from tests.docs.blocks import ROOT, Block, blocks, command_lines, narthex_words, pages
from tests.timing import within

RUN = {"python", "toml", "json", "sh", "console", "", "js", "ts", "tsx"}
"""Languages with a runner below; others (nginx, yaml, html) need a marker or a separate test."""
ELSEWHERE = {
    "nginx": "tests/doctor/test_proxies.py runs nginx with these lines",
    "mermaid": "tests/docs/test_design.py compares the diagrams with the code",
    "yaml": "Prometheus reads it, below",
    "promql": "tests/adapters/telemetry/test_alerts.py tests the rules that it shows",
}


def ids(found: list[Block]) -> list[str]:
    """The place of each block."""
    return [block.name for block in found]


def test_every_block_has_a_runner_or_a_reason() -> None:
    """A block in a new language, or a marker without a reason, is noticed."""
    found = blocks()
    assert len(found) > 50
    for block in found:
        assert block.fate or block.language in RUN | set(ELSEWHERE), block.name
        assert block.fate in ("", "file") or len(block.reason) > 10, f"{block.name}: say why"


SHELL = [block for block in blocks("sh", "console", "") if block.fate != "skip"]


@pytest.mark.parametrize("block", SHELL, ids=ids(SHELL))
def test_every_command_line_is_understood(block: Block) -> None:
    """Commands and options exist with the values that are shown: nothing is started."""
    for line in command_lines(block):
        for words in narthex_words(line):
            assert words[0] in COMMANDS, f"{block.name}: {line}"
            try:
                application(words[0]).parse_args(words, exit_on_error=False, print_error=False)
            except CycloptsError as error:
                raise AssertionError(f"{block.name}: {line}: {error}") from error


def inline_commands() -> list[tuple[str, str]]:
    """Page and text of each `narthex …` within a sentence, in tables and in generated pages."""
    found: dict[str, str] = {}
    for page in [*pages(), ROOT / "docs" / "troubleshooting.md"]:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`(narthex [a-z][^`]*)`", prose):
            found.setdefault(" ".join(span.split()), page.name)
    return [(page, text) for text, page in found.items() if " …" not in text.partition(" --")[0]]


def test_every_command_within_a_sentence_exists() -> None:
    """Its options and the number of its words are right; values may be placeholders or missing."""
    found = inline_commands()
    assert len(found) > 50
    wrong: list[str] = []
    for page, text in found:
        words = shlex.split(text.replace("\\|", "|"))[1:]
        if words[0] not in COMMANDS:
            wrong.append(f"{page}: {text}")
            continue
        try:
            application(words[0]).parse_args(words, exit_on_error=False, print_error=False)
        except (CoercionError, MissingArgumentError):
            continue
        except CycloptsError as error:
            wrong.append(f"{page}: {text}: {error}")
    assert wrong == []


TOML = [block for block in blocks("toml") if not block.fate]


@pytest.mark.parametrize("block", TOML, ids=ids(TOML))
def test_a_settings_file_loads(block: Block, tmp_path: Path) -> None:
    """As narthex.toml; a secret's file that it names exists."""
    for name in re.findall(r'_file = "([^"]+)"', block.text):
        file = tmp_path / Path(name).name
        file.write_text("a-secret-that-is-long-enough-0123456789")
        block = block._replace(text=block.text.replace(name, str(file)))
    path = tmp_path / "narthex.toml"
    path.write_text(block.text)
    assert tomllib.loads(block.text)
    load({"data_dir": tmp_path}, {}, path)


YAML = [block for block in blocks("yaml") if not block.fate]


@pytest.mark.parametrize("block", YAML, ids=ids(YAML))
def test_prometheus_takes_its_configuration(block: Block, tmp_path: Path) -> None:
    """As prometheus.yml; the token's file that it names need not exist."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    (tmp_path / "prometheus.yml").write_text(block.text)
    words = [promtool, "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


JSON = [block for block in blocks("json") if not block.fate]


@pytest.mark.parametrize("block", JSON, ids=ids(JSON))
def test_a_document_is_json(block: Block) -> None:
    """Shown records are valid JSON."""
    assert json.loads(block.text)


PYTHON = [block for block in blocks("python") if block.fate != "skip"]


@pytest.mark.parametrize("block", PYTHON, ids=ids(PYTHON))
def test_python_compiles_and_imports_what_is_there(block: Block) -> None:
    """Also fragments, whose `await`, `yield` and `return` belong in a function."""
    indented = "".join(f"    {line}\n" for line in block.text.splitlines())
    tree = ast.parse(f"async def fragment():\n{indented}")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("narthex"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):  # a module of the package, then
                    importlib.import_module(f"{node.module}.{alias.name}")


JAVASCRIPT = [block for block in blocks("js", "ts", "tsx") if block.fate != "skip"]


def exports(module: str) -> set[str]:
    """The names that a module of the helper exports."""
    source = (ROOT / "web" / "packages" / "client" / "src" / f"{module}.ts").read_text()
    found = set(re.findall(r"\b\w+\b", " ".join(re.findall(r"export (?:type )?\{([^}]*)\}", source))))
    found |= set(re.findall(r"export (?:async )?(?:function|class|const|type|interface) (\w+)", source))
    return found.union(*(exports(inner) for inner in re.findall(r'export \* from "\./([\w-]+)', source)))


def test_javascript_imports_what_the_helper_exports() -> None:
    """By name; the acceptance tests and web/ run the rest."""
    seen = 0
    for block in JAVASCRIPT:
        for names, module in re.findall(r'import \{([^}]*)\} from "@narthex/client/?([\w-]*)"', block.text):
            for name in (part.replace("type ", "").strip() for part in names.split(",")):
                assert name in exports(module or "index"), f"{block.name}: {name}"
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("block", JAVASCRIPT, ids=ids(JAVASCRIPT))
def test_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    """Node parses it as a module."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if block.language != "js":
        builder = ROOT / "web" / "node_modules" / "esbuild" / "bin" / "esbuild"
        if not builder.exists():
            pytest.skip("web/node_modules is not installed")
        done = subprocess.run(
            [str(builder), f"--loader={block.language}", "--format=esm", "--target=es2022"],
            input=block.text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    else:
        file = tmp_path / "snippet.mjs"
        file.write_text(block.text)
        done = subprocess.run([node, "--check", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# -- blocks that run against a gateway ---------------------------------------------------------------------------


def block_of(page: str, beginning: str) -> Block:
    """The one block of a page that contains this text."""
    (found,) = [block for block in blocks() if block.page == page and beginning in block.text]
    return found


@contextlib.asynccontextmanager
async def gateway(folder: Path, *arguments: str) -> AsyncIterator[Program]:
    """`narthex serve` in `folder`, as a reader of the README starts it."""
    async with running(folder, {}, arguments) as program:
        yield program


def at(program: Program, text: str) -> str:
    """A snippet with this gateway's address instead of the documented one, and its data directory."""
    port = str(program.port)
    for host in ("127.0.0.1:8000", "localhost:8000", "127.0.0.1:8080"):
        text = text.replace(host, f"127.0.0.1:{port}")
    return re.sub(
        r"(wss|https)://chat\.example(\.com)?",
        lambda m: ("ws" if m[1] == "wss" else "http") + f"://127.0.0.1:{port}",
        text,
    )


async def finished(
    folder: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a child process to its end."""
    return await asyncio.to_thread(
        subprocess.run,
        words,
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment(env or {}),
        timeout=within(60),
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put this environment's `narthex` on the path."""
    import os

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield


@pytest.mark.usefixtures("tools")
async def test_the_readme_from_its_first_agent_to_the_gate(tmp_path: Path) -> None:
    """myagents.py is written and served, the SDK connects, a refusal explains itself, the gate opens."""
    agent = block_of("README.md", "# myagents.py")
    (tmp_path / "myagents.py").write_text(agent.text)
    (words,) = narthex_words(command_lines(block_of("README.md", "serve --agent myagents"))[0])
    async with gateway(tmp_path, *words[1:]) as program:
        token = program.token("ada")
        connect = block_of("README.md", "from centrifuge import Client").text
        script = "import asyncio, os\ntoken = os.environ['TOKEN']\n\nasync def main():\n"
        script += "".join(f"    {line}\n" for line in at(program, connect).splitlines())
        script += "    print(run)\n    await client.disconnect()\n\nasyncio.run(main())\n"
        (tmp_path / "connect.py").write_text(script)
        done = await finished(tmp_path, sys.executable, "connect.py", env={"TOKEN": token})
        assert done.returncode == 0, done.stderr
        assert "run_id" in done.stdout

        refused = block_of("README.md", "Bearer nonsense")
        curl = at(program, command_lines(refused)[0])
        done = await finished(tmp_path, *shlex.split(curl))
        answer = json.loads(done.stdout)
        shown = dict(re.findall(r'"(code|title|detail|remedy)":"([^"]*)"', refused.text))
        assert {name: answer[name] for name in shown} == shown

        block = block_of("README.md", "narthex gate")
        ran = []
        for line in command_lines(block):
            for command in narthex_words(line):
                if command[0] in ("doctor", "gate"):  # `test` has its own tests, and needs a staging
                    done = await finished(tmp_path, "bash", "-c", at(program, line), env={"TOKEN": token})
                    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
                    ran.append(command[0])
        assert ran == ["doctor", "gate"]


@pytest.mark.usefixtures("tools")
async def test_the_python_client_as_written(tmp_path: Path) -> None:
    """`narthex token` in the served directory, a run, and its verification."""
    async with gateway(tmp_path) as program:
        (tmp_path / "narthex-data").symlink_to(tmp_path / "data")
        (tmp_path / "main.py").write_text(
            at(program, block_of("docs/client-python.md", "asyncio.run(main())").text)
        )
        done = await finished(tmp_path, sys.executable, "main.py")
        assert done.returncode == 0, done.stderr
        assert "whole: True" in done.stdout


@pytest.mark.usefixtures("tools")
async def test_agents_of_the_runs_page_answer(tmp_path: Path) -> None:
    """weather.py, and the fragments that yield events and ask, inside an agent."""
    weather = block_of("docs/runs.md", "# weather.py").text
    events = block_of("docs/runs.md", 'yield {"type": "TOOL_CALL_START"').text
    asks = block_of("docs/runs.md", "answer = await run.ask(").text
    source = (
        weather
        + "\n\n@agent\nasync def tools(run):\n"
        + "".join(f"    {line}\n" for line in events.splitlines())
    )
    source += "\n\n@agent\nasync def asks(run):\n" + "".join(f"    {line}\n" for line in asks.splitlines())
    (tmp_path / "weather.py").write_text(source)
    words = ("--agent", "weather:weather", "--agent", "weather:tools", "--agent", "weather:asks")
    async with gateway(tmp_path, *words) as program:
        from narthex import client

        token = program.token("ada")
        async with client.connect(program.ws, get_token=lambda: token) as person:
            outcomes = {}
            for name in ("weather", "tools", "asks"):
                run = await person.start_run("hi", agent=name)
                await run.wait(within(10))
                outcomes[name] = (run.outcome, run.text)
            assert outcomes["weather"] == ("success", "Hello ada. It snows.")
            assert outcomes["tools"][0] == "success"
            assert outcomes["asks"][0] == "interrupt"
            answered = await run.resume(run.interrupts[0]["id"], {"approved": False})
            await answered.wait(within(10))
            assert answered.text == "I have deleted nothing."


async def test_the_library_page_as_written(tmp_path: Path) -> None:
    """The program with FastAPI beside it and WebSockets too; the verifier; the test, in a project with no settings."""
    program = block_of("docs/library.md", "from fastapi import FastAPI").text
    code = program.replace("gateway.run()", "pass #")
    scope: dict[str, Any] = {}
    made = code.replace('{"port": 8000}', f'{{"port": 0, "data_dir": {str(tmp_path / "data")!r}}}')
    exec(compile(made, "library.md", "exec"), scope)
    async with scope["gateway"].running() as url:
        import httpx2

        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/mine/hello")).json() == {"hello": "world"}

    verifier = block_of("docs/library.md", "class Sessions").text
    scope = {
        "narthex": narthex,
        "lookup": lambda token: None,
        "DatabaseAway": type("DatabaseAway", (Exception,), {}),
    }
    made = verifier.replace("create_gateway(", f"create_gateway({{'data_dir': {str(tmp_path / 'v')!r}}}, ")
    exec(compile(made, "library.md", "exec"), scope)
    assert scope["Sessions"]().verify("x", now=0.0, traffic="user").code == "token_invalid"

    test = block_of("docs/library.md", "def test_counter").text
    counter = program.partition("gateway = ")[0]
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "test_counter.py").write_text(f"{counter}\n{test}")
    done = await finished(
        tmp_path / "project", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.usefixtures("tools")
async def test_what_the_console_shows_is_what_is_printed(tmp_path: Path) -> None:
    """`narthex check` in production, a refused plain GET, an inspected token."""
    block = block_of("docs/operations.md", "E2E_TESTING=1 narthex check")
    done = await finished(tmp_path, "bash", "-c", command_lines(block)[0])
    shown = block.text.splitlines()[1:]
    assert [*done.stderr.splitlines(), *done.stdout.splitlines()] == shown
    async with gateway(tmp_path) as program:
        block = block_of("docs/edge.md", "curl -i")
        done = await finished(tmp_path, *shlex.split(at(program, command_lines(block)[0])))
        for line in block.text.splitlines()[1:6]:
            assert line in done.stdout.replace("\r", ""), line
        (tmp_path / "narthex-data").symlink_to(tmp_path / "data")
        block = block_of("docs/authentication.md", "narthex token | narthex token inspect")
        done = await finished(tmp_path, "bash", "-c", command_lines(block)[0])
        assert done.returncode == 0, done.stderr
        for line in block.text.splitlines()[1:]:
            beginning = re.split(r"[\d…]", line)[0].rstrip()
            assert beginning in done.stdout, line
