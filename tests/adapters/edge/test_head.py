"""Request heads: results and refusals, the same for every split of the bytes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from narthex.adapters.edge.head import Complete, HeadReader, authority, request_head
from narthex.domain.refusals import Refusal
from narthex.errors import Bug
from tests.adapters.edge.harness import upgrade

LIMIT, HEADERS = 16 * 1024, 100
Outcome = Complete | Refusal | None


def read(data: bytes, cuts: list[int] | None = None) -> tuple[Outcome, int]:
    """Feed `data` cut at `cuts`; the outcome, and how many bytes were fed by then."""
    reader = HeadReader(LIMIT, HEADERS)
    edges = sorted({cut for cut in cuts or [] if 0 < cut < len(data)})
    start = 0
    for end in [*edges, len(data)]:
        outcome = reader.feed(data[start:end])
        start = end
        if outcome is not None:
            return outcome, end
    return None, len(data)


def refusal(data: bytes) -> str:
    outcome, _ = read(data)
    assert isinstance(outcome, Refusal), outcome
    return outcome.code


def test_an_upgrade_is_read_and_its_early_bytes_are_told_apart() -> None:
    """The size of an upgrade's head leaves exactly the bytes behind it."""
    head = upgrade("/ws?a=1", extra="Cookie: x=\xe9\r\n")
    outcome, _ = read(head + b"EARLY")
    assert isinstance(outcome, Complete)
    assert outcome.size == len(head)
    seen = request_head(outcome.fields, peer=("10.0.0.1", 5), secure=False, received_at=1.5)
    assert (seen.method, seen.path, seen.query, seen.http_version) == ("GET", "/ws", "a=1", "1.1")
    assert seen.get("cookie") == "x=\xe9"
    assert seen.get("host") == "localhost"
    assert seen.peer == ("10.0.0.1", 5)
    assert seen.received_at == 1.5


def test_the_path_is_decoded_and_the_query_is_not() -> None:
    """Percent-encoding is undone in the path only."""
    outcome, _ = read(b"GET /%77s%2Fa?b=%20 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(outcome, Complete)
    seen = request_head(outcome.fields, peer=("", 0), secure=False, received_at=0)
    assert (seen.path, seen.query) == ("/ws/a", "b=%20")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://h/ws?x", "/ws"),
        ("HTTPS://h:1/", "/"),
        ("http://h", "/"),
        ("http://h?q", "/"),
        ("*", ""),
        ("ftp://h/x", ""),
    ],
)
def test_an_absolute_target_counts_by_its_path(target: str, path: str) -> None:
    """Absolute-form is read; other forms leave no path."""
    outcome, _ = read(f"OPTIONS {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    if isinstance(outcome, Complete):
        assert request_head(outcome.fields, peer=("", 0), secure=False, received_at=0).path == path
    else:
        assert path == "" or isinstance(outcome, Refusal)


def test_authority_is_lower_case_and_only_for_http() -> None:
    """The part between `//` and the path."""
    assert authority(b"http://EXAMPLE:80/x") == "example:80"
    assert authority(b"/x") is None
    assert authority(b"ws://h/") is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",  # obs-fold
        b"GET / HTTP/1.1\r\n X: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",  # bare LF
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",  # bare CR
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",  # space before the colon
        b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\xff: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS to a plain port
    ],
)
def test_malformed_heads_are_refused(data: bytes) -> None:
    """None of these is repaired: we are as strict as llhttp."""
    assert refusal(data) == "bad_request"


def test_the_limits_are_exact() -> None:
    """16,384 bytes and 100 headers pass, one more of either does not, whatever the split."""
    frame = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    fits = frame.replace(b"X: ", b"X: " + b"x" * (LIMIT - len(frame)))
    assert len(fits) == LIMIT
    assert isinstance(read(fits)[0], Complete)
    assert isinstance(read(fits, [1, 5000, LIMIT - 1])[0], Complete)
    large = fits.replace(b"X: ", b"X: y")
    assert refusal(large) == "head_too_large"
    lines = b"".join(b"X%d: y\r\n" % number for number in range(HEADERS))
    assert isinstance(read(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")[0], Complete)
    assert refusal(b"GET / HTTP/1.1\r\n" + lines + b"Y: z\r\n\r\n") == "head_too_large"


def test_a_huge_line_is_refused_before_it_ends() -> None:
    """70 KB of one header line are not waited for; 16 KB suffice to decide."""
    reader = HeadReader(LIMIT, HEADERS)
    assert reader.feed(b"GET / HTTP/1.1\r\nCookie: ") is None
    fed = 0
    while (outcome := reader.feed(b"c" * 1000)) is None:
        fed += 1000
    assert isinstance(outcome, Refusal)
    assert outcome.code == "head_too_large"
    assert fed < LIMIT


def test_a_spent_reader_says_so() -> None:
    """Feeding after the end is a bug, not a silent loss."""
    reader = HeadReader(LIMIT, HEADERS)
    assert reader.feed(b"nonsense\r\n") is not None
    with pytest.raises(Bug):
        reader.feed(b"x")


HEADS = st.sampled_from(
    [
        upgrade(extra="Cookie: abc\r\n") + b"\x81\x80\0\0\0\0",
        b"GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"GET /" + b"u" * 17_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
    ]
)


@given(HEADS, st.lists(st.integers(1, 17_100), max_size=12))
@settings(max_examples=300)
def test_any_split_gives_the_same_outcome(data: bytes, cuts: list[int]) -> None:
    """Where the network cuts does not matter."""
    whole, _ = read(data)
    split, _ = read(data, cuts)
    if isinstance(whole, Complete):
        assert isinstance(split, Complete)
        assert split.fields == whole.fields
    else:
        assert split == whole


@given(st.binary(max_size=400), st.lists(st.integers(1, 400), max_size=5))
@example(b"\r\n" * 100, [])
@settings(max_examples=500)
def test_fuzz_arbitrary_bytes(data: bytes, cuts: list[int]) -> None:
    """Any bytes give an outcome of the three, never an exception."""
    outcome, _ = read(b"GET / HTTP/1.1\r\n" + data, cuts)
    assert outcome is None or isinstance(outcome, Complete | Refusal)
    outcome, _ = read(data, cuts)
    assert outcome is None or isinstance(outcome, Complete | Refusal)


def test_a_head_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    """Bytes behind it in the same read are not counted."""
    start, end = b"GET /ws HTTP/1.1\r\nHost: a\r\nX-Pad: ", b"\r\n\r\n"
    exact = start + b"x" * (LIMIT - len(start) - len(end)) + end
    assert len(exact) == LIMIT
    for behind in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        assert isinstance(read(exact + behind)[0], Complete)
        assert isinstance(read(exact + behind, [LIMIT - 1])[0], Complete)
    assert refusal(start + b"x" + exact[len(start) :]) == "head_too_large"
