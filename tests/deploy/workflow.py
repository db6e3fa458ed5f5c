"""Runs the steps of a GitHub workflow or of a Cloud Build file on this machine, as they stand.

Not here: the programs that they call (`cloud.py` puts fakes of gcloud, docker and pip on the PATH). Rules: a `run` or a
`script` is run by bash with the step's own environment, and nothing of it is changed, but `/workspace` is a directory
of the test; actions of others are known by name and do nothing; an unknown action, function or context is an error.
"""

# ruff: noqa: E501 - tables read in rows
from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

OTHERS: Final = ("actions/checkout@", "actions/setup-python@", "actions/upload-artifact@", "google-github-actions/auth@",
                 "google-github-actions/setup-gcloud@")  # fmt: skip
_EXPRESSION: Final = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_TOKEN: Final = re.compile(r"'(?:[^']|'')*'|[A-Za-z_][\w.-]*(?:\(\))?|\d+|&&|\|\||==|!=|!|[()]|\s+")


@dataclass
class Outcome:
    """What a run of a pipeline gave.

    Attributes:
        ok: whether every job passed.
        steps: name → `success`, `failure` or `skipped`, in order.
        output: everything that the steps printed.
        summary: GitHub's job summary.
    """

    ok: bool = True
    steps: dict[str, str] = field(default_factory=dict)
    output: str = ""
    summary: str = ""


@dataclass
class Runner:
    """Runs a pipeline in `workspace` with `environ`; `folder` is for its own files."""

    workspace: Path
    folder: Path
    environ: Mapping[str, str]
    timeout_s: float

    # -- GitHub Actions ------------------------------------------------------------------------------------

    def github(
        self,
        workflow: Path | str,
        inputs: Mapping[str, object],
        secrets: Mapping[str, str],
        **contexts: Mapping[str, str],
    ) -> Outcome:
        """Run the jobs of a workflow in their order. `workflow`: a file, or its text."""
        text = workflow.read_text() if isinstance(workflow, Path) else workflow
        document = yaml.safe_load(text)
        declared = (document[True].get("workflow_call") or {}).get(
            "inputs"
        ) or {}  # YAML 1.1 reads `on` as true
        given = {name: inputs.get(name, spec.get("default", "")) for name, spec in declared.items()}
        missing = [name for name, spec in declared.items() if spec.get("required") and name not in inputs]
        assert not missing, f"required inputs: {missing}"
        outcome = Outcome()
        waiting = dict(document["jobs"])
        done: dict[str, bool] = {}
        while waiting:
            name = next(name for name, job in waiting.items() if set(_list(job.get("needs"))) <= set(done))
            job = waiting.pop(name)
            if not all(done[needed] for needed in _list(job.get("needs"))):
                done[name] = False
                continue
            context: dict[str, Any] = {
                "inputs": given, "secrets": dict(secrets), "github": {"sha": "0" * 40}, **contexts, "steps": {},
                "failed": False,
            }  # fmt: skip
            environ = {key: self._text(value, context) for key, value in (job.get("env") or {}).items()}
            self._steps(job["steps"], context, environ, outcome)
            done[name] = not context["failed"]
        outcome.ok = all(done.values())
        summary = self.folder / "summary.md"
        outcome.summary = summary.read_text() if summary.exists() else ""
        return outcome

    def _steps(
        self,
        steps: list[dict[str, Any]],
        context: dict[str, Any],
        environ: Mapping[str, str],
        outcome: Outcome,
    ) -> None:
        for step in steps:
            name = step.get("name") or step.get("uses") or step["run"].splitlines()[0]
            condition = str(step.get("if", "success()"))
            if not re.search(r"(success|failure|always|cancelled)\(\)", condition):
                condition = f"success() && ({condition})"
            if not self._value(condition.removeprefix("${{").removesuffix("}}"), context):
                outcome.steps[name] = "skipped"
                continue
            given = {key: self._text(value, context) for key, value in (step.get("env") or {}).items()}
            if "uses" in step:
                good = self._action(step, context, {**environ, **given}, outcome)
            else:
                good = self._shell(step, step["run"], context, {**environ, **given}, outcome)
            outcome.steps[name] = "success" if good else "failure"
            context["failed"] = context["failed"] or not good

    def _action(
        self, step: dict[str, Any], context: dict[str, Any], environ: Mapping[str, str], outcome: Outcome
    ) -> bool:
        uses = str(step["uses"])
        if not uses.startswith("./"):
            assert uses.startswith(OTHERS), f"unknown action {uses}"
            return True
        action = yaml.safe_load((self.workspace / uses / "action.yml").read_text())
        given = step.get("with") or {}
        assert set(given) <= set(action["inputs"]), f"{uses} has no {set(given) - set(action['inputs'])}"
        inputs = {
            name: self._text(given.get(name, spec.get("default", "")), context)
            for name, spec in action["inputs"].items()
        }
        inner = {**context, "inputs": inputs, "steps": {}, "failed": False}
        self._steps(action["runs"]["steps"], inner, environ, outcome)
        return not inner["failed"]

    def _shell(
        self,
        step: dict[str, Any],
        script: str,
        context: dict[str, Any],
        environ: Mapping[str, str],
        outcome: Outcome,
    ) -> bool:
        outputs = self.folder / "outputs"
        outputs.write_text("")
        files = {
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "RUNNER_TEMP": str(self.folder),
        }
        code = self._bash(self._text(script, context), {**environ, **files}, outcome)
        pairs = dict(line.split("=", 1) for line in outputs.read_text().splitlines() if "=" in line)
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": pairs}
        return code == 0

    def _bash(self, script: str, environ: Mapping[str, str], outcome: Outcome) -> int:
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.workspace,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=self.timeout_s,
        )
        outcome.output += done.stdout
        return done.returncode

    def _text(self, value: object, context: Mapping[str, Any]) -> str:
        return _EXPRESSION.sub(lambda found: _shown(self._value(found[1], context)), _shown(value))

    def _value(self, expression: str, context: Mapping[str, Any]) -> Any:
        functions: dict[str, Callable[[], bool]] = {
            "success()": lambda: not context["failed"],
            "failure()": lambda: bool(context["failed"]),
            "always()": lambda: True,
            "cancelled()": lambda: False,
        }
        words: list[str] = []
        position = 0
        values: dict[str, Any] = {}
        while position < len(expression):
            found = _TOKEN.match(expression, position)
            assert found is not None, f"unknown expression {expression!r} at {position}"
            word, position = found[0], found.end()
            replaced = {
                "&&": "and",
                "||": "or",
                "!": "not",
                "==": "==",
                "!=": "!=",
                "true": "True",
                "false": "False",
            }
            if word.isspace():
                words.append(" ")
            elif word in replaced or word in "()":
                words.append(f" {replaced.get(word, word)} ")
            else:
                key = f"v{len(values)}"
                values[key] = (
                    functions[word]() if word.endswith("()") else word[1:-1].replace("''", "'") if word[0] == "'"
                    else int(word) if word.isdigit() else _looked_up(word, context)
                )  # fmt: skip
                words.append(key)
        return eval(
            "".join(words).strip(), {"__builtins__": {}}, values
        )  # names and operators from above only

    # -- Cloud Build ---------------------------------------------------------------------------------------

    def cloud_build(
        self, build: Path | str, substitutions: Mapping[str, str], secrets: Mapping[str, str]
    ) -> Outcome:
        """Run the steps one after the other, until one fails."""
        text = build.read_text() if isinstance(build, Path) else build
        document = yaml.safe_load(text)
        unknown = set(substitutions) - set(document["substitutions"])
        assert not unknown, f"the build has no substitutions {unknown}"
        values = {**document["substitutions"], **substitutions, "BUILD_ID": "b-1", "PROJECT_ID": "my-project"}

        def filled(raw: str) -> str:
            found = re.sub(
                r"\$\{?([A-Z_][A-Z0-9_]*)\}?",
                lambda name: str(values[name[1]]) if name[1] in values else name[0],
                raw,
            )
            return found.replace("/workspace", str(self.workspace))

        environ = dict(filled(pair).split("=", 1) for pair in document["options"]["env"])
        outcome = Outcome()
        for step in document["steps"]:
            name = step["id"]
            if not outcome.ok:
                outcome.steps[name] = "skipped"
                continue
            given = {key: secrets[key] for key in step.get("secretEnv", [])}
            if "script" in step:
                script = str(step["script"]).replace("/workspace", str(self.workspace))
            else:
                program = step.get("entrypoint") or step["name"].rpartition("/")[2]
                script = " ".join([program, *(f"'{filled(word)}'" for word in step["args"])])
            outcome.ok = self._bash(script, {**environ, **given}, outcome) == 0
            outcome.steps[name] = "success" if outcome.ok else "failure"
        return outcome


def _list(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


def _shown(value: object) -> str:
    return "true" if value is True else "false" if value is False else "" if value is None else str(value)


def _looked_up(name: str, context: Mapping[str, Any]) -> Any:
    """A value of a context; a missing member is empty, an unknown context is an error."""
    first, *rest = name.split(".")
    assert first in ("inputs", "secrets", "github", "steps", "vars", "needs"), f"unknown context {name}"
    found: Any = context.get(first, {})
    for part in rest:
        found = found.get(part, "") if isinstance(found, Mapping) else ""
    return found
