"""`narthex doctor` itself: first line, exit codes, JSON, JUnit, and no secret in its output."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from narthex.cli.arguments import given_headers, given_token, seconds_of
from narthex.e2e.children import free_port
from narthex.errors import ClientError
from tests.acceptance.program import clean_environment
from tests.doctor.failing_servers import healthy
from tests.doctor.scripted import Asked, Wire, serving
from tests.timing import within


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "narthex", "doctor", *words],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=within(60),
        env=clean_environment({}),
        check=False,
    )


async def run_against(answer: object, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """The command against a scripted server, whose address is its last argument."""
    import asyncio

    async with serving(answer) as port:  # type: ignore[arg-type]  # an Answer
        return await asyncio.to_thread(run, *words, f"ws://127.0.0.1:{port}/ws", stdin=stdin)


async def refusing(asked: Asked, wire: Wire) -> None:
    """Refuses, and repeats the credential."""
    said = asked.headers.get("authorization", "nothing")
    await wire.say(401, "Unauthorized", f"you sent {said}", WWW_Authenticate=f'Bearer error="{said}"')


async def test_the_exit_codes() -> None:
    """0 works, 1 does not, 2 usage, 69 unreachable."""
    assert (await run_against(healthy, "--timeout", "2s")).returncode == 0
    assert (await run_against(refusing, "--timeout", "2s", "--token", "opaque")).returncode == 1
    assert run("ws://").returncode == 2
    assert run().returncode == 2
    assert run("ws://127.0.0.1:1/", "--timeout", "soon").returncode == 2
    nowhere = run("ws://127.0.0.1:1/", "--junit", "no-such-folder/report.xml")
    assert nowhere.returncode == 2
    assert "The folder no-such-folder for a report does not exist" in nowhere.stderr
    done = run(f"ws://127.0.0.1:{free_port()}/ws")
    assert done.returncode == 69
    assert done.stdout.startswith("nothing_listens: ")


async def test_json_and_junit(tmp_path: Path) -> None:
    """Both name the cause; a token from stdin is in neither, even when the server repeats it."""
    file = tmp_path / "doctor.xml"
    token = "a-very-opaque-token"
    done = await run_against(refusing, "--json", "--junit", str(file), "--token", "-", stdin=f"{token}\n")
    report = json.loads(done.stdout)
    assert report["findings"][0]["code"] == "token_refused"
    assert report["ok"] is False
    suite = ET.fromstring(file.read_text())
    assert suite.attrib["failures"] == "1"
    assert suite[0].attrib["name"] == "token_refused"
    assert token not in done.stdout + done.stderr + file.read_text()


def test_a_report_is_harmless_for_a_terminal() -> None:
    """Control characters of a server do not reach it."""
    from narthex.doctor.reports import harmless

    assert harmless("a\x1b[31mb\r\nc") == "a [31mb  c"


def test_what_is_given_is_checked(tmp_path: Path) -> None:
    """Times, tokens and headers; an error never repeats the value."""
    assert [seconds_of("x", text) for text in ("5", "250ms", "10m", "1h", "0")] == [5, 0.25, 600, 3600, 0]
    assert given_headers(("X-Key: a:b",)) == (("X-Key", "a:b"),)
    key, run = given_headers(("X-e2e-Bypass-Key: k",))
    assert key == ("X-e2e-Bypass-Key", "k")
    assert run[0] == "X-E2E-Test-Run"
    assert re.fullmatch(r"cli-[0-9a-f]{16}", run[1])
    assert given_headers(("X-E2E-Bypass-Key: k", "x-e2e-test-run: mine")) == (
        ("X-E2E-Bypass-Key", "k"),
        ("x-e2e-test-run", "mine"),
    )
    file = tmp_path / "token"
    file.write_text("opaque\n")
    assert given_token(f"@{file}") == "opaque"
    for wrong in ("sesame\r\nX: y", "ses ame", "sesame\x00"):
        with pytest.raises(ClientError) as caught:
            given_token(wrong)
        assert "ses" not in str(caught.value)
    for line in ("no colon", "bad name: x", "X: a\r\nY: b"):
        with pytest.raises(ClientError):
            given_headers((line,))
