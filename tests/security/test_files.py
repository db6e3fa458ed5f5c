"""Files of the real program: no other user of the machine can read signing keys or messages."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from narthex.adapters.sqlite.file import connect
from narthex.errors import ConfigError
from tests.acceptance.program import Program, running

pytestmark = pytest.mark.acceptance


def mode(path: Path) -> int:
    """The file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


async def test_data_in_a_directory_that_was_there_is_private(tmp_path: Path) -> None:
    """With the usual umask and an open directory: every file is 0600 while it runs, and no other user can replace
    one.
    """
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    before = os.umask(0o022)
    try:
        async with running(tmp_path) as program:
            await program.login("ada@example.com")
            files = [path for path in data.rglob("*") if path.is_file()]
            assert {"narthex.db", "narthex.db-wal", "log.db", "log.db-wal"} <= {path.name for path in files}
            assert {path.name: oct(mode(path)) for path in files if mode(path) & 0o077} == {}
            assert mode(data) & 0o022 == 0
    finally:
        os.umask(before)


def test_an_open_database_is_named_by_check_and_closed_by_the_command_line(tmp_path: Path) -> None:
    """Files as earlier versions left them: `check` reports them with the remedy, and `narthex token` opens and
    restricts them.
    """
    program = Program(tmp_path, {})
    program.token("ada")
    store = tmp_path / "data" / "narthex.db"
    store.chmod(0o644)
    said = program.run("check", "--data-dir", str(tmp_path / "data")).stdout
    assert f"{store} is open to other users (0644)" in said
    assert "narthex keys rotate --now" in said
    program.token("ada")
    assert mode(store) == 0o600
    assert "open to other users" not in program.run("check", "--data-dir", str(tmp_path / "data")).stdout


def test_a_file_that_cannot_be_closed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only its owner, another user, can change: nothing is written to it, and the message names who must act."""
    store = tmp_path / "narthex.db"
    connect(store).close()
    store.chmod(0o644)

    def refused(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(self), mode)

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(ConfigError, match="only its owner, another user, can change"):
        connect(store)
