"""Secrets in files: results and refusals, and no refusal shows the content."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.adapters.secrets.file import MAX_SECRET_BYTES, read_file
from narthex.errors import ConfigError


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"key", "key"),
        (b"key\n", "key"),
        (b"key\r\n", "key"),
        (b"key\n\n", "key\n"),
        (b" key ", " key "),
        ("schlüssel".encode(), "schlüssel"),
        (b"-----BEGIN X-----\nabc\n-----END X-----\n", "-----BEGIN X-----\nabc\n-----END X-----"),
        (b"k" * MAX_SECRET_BYTES, "k" * MAX_SECRET_BYTES),
    ],
)
def test_the_content_less_one_line_break(content: bytes, secret: str, tmp_path: Path) -> None:
    """Editors and `echo` add one; everything else belongs to the secret."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert read_file(path) == secret


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfesecret", "is not UTF-8"),
        (b"k" * (MAX_SECRET_BYTES + 1), "is longer than 64 KB"),
    ],
)
def test_unusable_content_is_named_and_not_shown(content: bytes, what: str, tmp_path: Path) -> None:
    """The sentence has the path and the remedy."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    (problem,) = caught.value.problems
    assert str(path) in problem
    assert what in problem
    assert "kkk" not in problem
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["none", "."])
def test_an_unreadable_path_is_named(name: str, tmp_path: Path) -> None:
    """Missing, or a directory."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path / name)
