"""The Grafana dashboards are what Grafana's own types say: those that it publishes of a dashboard's JSON.

Grafana itself is not run here. `test_dashboards.py` runs every query, this one looks at what surrounds the queries.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.alerting.test_dashboards import boards
from tests.docs.packages import package_file
from tests.services import missing

TYPES = "dist/types/raw/dashboard/x/types.gen.d.ts"
TSC = Path(__file__).parents[2] / "web" / "node_modules" / ".bin" / "tsc"
OPTIONS = {
    "strict": True,
    "noEmit": True,
    "target": "es2022",
    "module": "esnext",
    "moduleResolution": "bundler",
    "types": [],
}


def findings(directory: Path, texts: dict[str, str]) -> dict[str, str]:
    """What the compiler says to each dashboard's JSON, as a literal of Grafana's type; those without a finding are left
    out.
    """
    if not TSC.exists():
        missing("the TypeScript compiler", "npm ci --prefix web")
    shutil.copy(package_file("@grafana/schema", TYPES), directory / "grafana.d.ts")
    (directory / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS}))
    for name, text in texts.items():
        source = f'import type {{ Dashboard }} from "./grafana";\nexport const board: Dashboard = {text};\n'
        (directory / f"{name}.ts").write_text(source)
    done = subprocess.run(
        [TSC, "-p", str(directory), "--pretty", "false"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = {
        name: line for line in done.stdout.splitlines() for name in texts if line.startswith(f"{name}.ts(")
    }
    assert (done.returncode == 0) == (not found), done.stdout + done.stderr
    return found


@pytest.mark.timeout(180)
def test_dashboards_fit_grafanas_types(tmp_path: Path) -> None:
    """No member that Grafana does not know, none of another type, and none missing; four lies are found."""
    good = {name: json.dumps(board) for name, board in boards().items()}
    text = good["overview"]
    lies = {
        "misspelled": text.replace('"gridPos"', '"gridPosition"', 1),
        "untyped": text.replace('"schemaVersion": 39', '"schemaVersion": "39"', 1),
        "unknown": text.replace('"type": "query"', '"type": "promql"', 1),
        "incomplete": text.replace('"keepTime": true, ', "", 1),
    }
    assert all(lie != text for lie in lies.values())
    found = findings(tmp_path, good | lies)
    assert found.keys() == lies.keys(), found
