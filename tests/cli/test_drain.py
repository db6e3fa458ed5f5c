"""`narthex drain`: only a refused connection counts as gone; every other failure is reported as such."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from narthex.cli.main import run
from narthex.e2e.children import free_port


@contextlib.contextmanager
def answering(first: bytes, then: bytes | None, heads: list[bytes] | None = None) -> Iterator[str]:
    """A server on loopback: `first` answers the first request, `then` all others (None: it never answers them).
    `heads` gets the requests.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def serve() -> None:
        answers = iter([first])
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                lines.append(line)
                head = line.recv(65_536)
                if heads is not None:
                    heads.append(head)
                answer = next(answers, then)
                if answer is not None:
                    line.sendall(answer)
                    line.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for line in lines:
            line.close()
        thread.join(5)


def answer(status: str, body: str = "{}", kind: str = "application/json") -> bytes:
    """An HTTP answer with a line break."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return (head + body).encode()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment."""
    monkeypatch.setenv("NARTHEX_ADMIN_KEY", "an-admin-key-0123456789")


def test_silence_is_not_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Drained, and then only time-outs: whether it is gone is unknown, which is exit 1."""
    with answering(answer("200 OK"), None) as url:
        assert run(["drain", url, "--wait", "0.6"]) == 1
    seen = capsys.readouterr()
    assert "gone" not in seen.out
    assert "ReadTimeout" in seen.err


def test_a_proxy_that_has_lost_it_is_not_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A load balancer still answers, with or without other instances behind it."""
    with answering(answer("200 OK"), answer("502 Bad Gateway")) as url:
        assert run(["drain", url, "--wait", "0.6"]) == 1
    seen = capsys.readouterr()
    assert "gone" not in seen.out
    assert "After 0.6 s it still responds." in seen.err


def test_only_the_drain_carries_the_key() -> None:
    """Another program may have the port by the time at which the gateway has ended."""
    heads: list[bytes] = []
    with answering(answer("200 OK"), answer("200 OK"), heads) as url:
        assert run(["drain", url, "--wait", "0.6"]) == 1
    first, *later = [b"authorization" in head.lower() for head in heads]
    assert first
    assert later
    assert not any(later)


@pytest.mark.parametrize(
    "location", ["https://chat.example.com/api/v1/drain", "//chat.example.com/api/v1/drain"]
)
def test_a_redirect_is_named_by_the_url_to_give(capsys: pytest.CaptureFixture[str], location: str) -> None:
    """Most proxies send http to https; the key does not follow."""
    moved = f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    heads: list[bytes] = []
    with answering(moved.encode(), None, heads) as url:
        assert run(["drain", url]) != 0
    assert len(heads) == 1
    assert "://chat.example.com." in capsys.readouterr().err


def test_a_wrong_key_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy is for the key, and not for an expired token."""
    body = '{"detail":"The admin key is wrong.","remedy":"Get a fresh token from the configured issuer."}'
    with answering(answer("401 Unauthorized", body, "application/problem+json"), None) as url:
        assert run(["drain", url]) == 1
    assert capsys.readouterr().err == (
        "error: The admin key is wrong.\n"
        "remedy: Set NARTHEX_ADMIN_KEY to the gateway's admin key, or to the token of an operator.\n"
    )


@pytest.mark.parametrize("body", ["[]", "{", "<html>", ""])
def test_an_answer_of_another_kind_is_no_bug(body: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A body that claims application/json and is not."""
    with answering(answer("404 Not Found", body), None) as url:
        assert run(["drain", url]) == 1
    assert "answered 404" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ws://127.0.0.1:8000", "http://[::1", "http://h:x", ""])
def test_what_is_no_address_is_a_usage_error(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2."""
    assert run(["drain", url]) == 2
    assert "URL of a gateway" in capsys.readouterr().err


def test_a_key_that_no_header_takes_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without repeating it; and so is a missing key."""
    monkeypatch.setenv("NARTHEX_ADMIN_KEY", "ключ-от-двери")
    assert run(["drain", "http://127.0.0.1:1"]) == 2
    assert "ключ" not in capsys.readouterr().err
    monkeypatch.delenv("NARTHEX_ADMIN_KEY")
    assert run(["drain", "http://127.0.0.1:1"]) == 2


def test_nothing_that_answers_is_69(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before anything was drained, a refused connection is a wrong URL, not the end."""
    assert run(["drain", f"http://127.0.0.1:{free_port()}"]) == 69
    seen = capsys.readouterr()
    assert "does not respond (ConnectError)" in seen.err
    assert "gone" not in seen.out
