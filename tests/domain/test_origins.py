"""`narthex.domain.origins`: which pages may connect, and under which names we are reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.origins import (
    HostPolicy,
    Origin,
    OriginPolicy,
    claimed_origin,
    origin_fault,
    parse_allowed_hosts,
    parse_allowed_origins,
    parse_host,
    parse_origin,
    served_to_probes,
)


def origins(*words: str) -> OriginPolicy:
    """A setting that is right."""
    found = parse_allowed_origins(words)
    assert isinstance(found, OriginPolicy)
    return found


def hosts(*words: str) -> HostPolicy:
    """A setting that is right."""
    found = parse_allowed_hosts(words)
    assert isinstance(found, HostPolicy)
    return found


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "allowed"),
    [
        ("http://localhost:8000", "localhost:8000", "http", True),
        ("http://localhost:3000", "localhost:8000", "http", False),
        ("http://127.0.0.1:8000", "localhost:8000", "http", False),
        ("https://chat.example.com", "chat.example.com", "https", True),
        ("https://chat.example.com", "chat.example.com:443", "https", True),
        ("https://CHAT.example.com", "chat.EXAMPLE.com.", "https", True),
        ("https://chat.example.com", "chat.example.com", "http", True),  # a proxy that is not listed ends TLS
        (
            "http://chat.example.com",
            "chat.example.com",
            "https",
            False,
        ),  # a downgraded page is another origin
        ("https://chat.example.com.evil.org", "chat.example.com", "https", False),
        ("https://evil.org/chat.example.com", "chat.example.com", "https", False),
        ("https://user@chat.example.com", "chat.example.com", "https", False),
        ("null", "chat.example.com", "https", False),
        ("", "chat.example.com", "https", False),
        ("file://", "", "http", False),
        ("https://chat.example.com", "", "https", False),
        ("chrome-extension://chat.example.com", "chat.example.com", "http", False),
        ("http://[::1]:8000", "[::1]:8000", "http", True),
    ],
)
def test_same_origin_is_the_default(origin: str, host: str, scheme: str, allowed: bool) -> None:
    """Scheme, host and port, with the scheme's default port where none is given."""
    assert OriginPolicy().allows(origin, host=host, scheme=scheme) is allowed


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("https://app.example.com:443", True),
        ("https://app.example.com:8443", False),
        ("http://app.example.com", False),
        ("https://a.b.example.net", True),
        ("https://example.net", False),
        ("https://evilexample.net", False),
        ("tauri://localhost", True),
        ("https://chat.example.com", True),  # our own, beside the list
    ],
)
def test_listed_origins(origin: str, allowed: bool) -> None:
    """Exact ones, subdomains by `*.`, and apps' own schemes."""
    policy = origins("https://app.example.com/", "https://*.example.net", "tauri://localhost")
    assert policy.allows(origin, host="chat.example.com", scheme="https") is allowed


@pytest.mark.parametrize("word", ["*", "app.example.com", "https://*.com", "https://*", "https://a/b", ""])
def test_what_is_no_origin_is_a_problem(word: str) -> None:
    """A wildcard for all origins does not exist."""
    found = parse_allowed_origins([word])
    assert isinstance(found, list)
    assert "NARTHEX_ALLOWED_ORIGINS" in found[0]


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "app.localhost"]
)
def test_loopback_names_are_served(host: str) -> None:
    """By default to all clients, with listed names only to probes of this machine."""
    assert HostPolicy().allows(host)
    assert not hosts("chat.example.com").allows(host)
    assert served_to_probes(host, "127.0.0.1", ["host", "user-agent"])
    assert served_to_probes(host, "::ffff:127.0.0.1", ["host"])
    assert not served_to_probes(host, "192.0.2.1", ["host"])
    for header in ("x-forwarded-for", "x-forwarded-host", "forwarded", "via", "x-real-ip"):
        assert not served_to_probes(host, "127.0.0.1", ["host", header])


def test_a_listed_name_is_no_loopback_name() -> None:
    """What a probe of this machine may use is a loopback name."""
    assert not served_to_probes("chat.example.com", "127.0.0.1", ["host"])
    assert hosts("localhost").allows("localhost")  # listed on purpose


@pytest.mark.parametrize("word", ["null", "file://", "app://-", "app://.", "NULL"])
def test_shells_are_allowed_by_name(word: str) -> None:
    """Origins without a host, as Electron and WebViews send them; no cookie counts with one, nor does another shell."""
    policy = origins(word)
    own = {"host": "chat.example.com", "scheme": "https"}
    assert policy.allows(word.lower(), **own)
    assert not policy.allows("app://other" if word != "app://other" else "null", **own)
    assert origin_fault(policy, word.lower(), **own, cookie=False) == ""
    assert "cookie" in origin_fault(policy, word.lower(), **own, cookie=True)
    assert not origins("https://app.example.com").allows(word.lower(), **own)


def test_one_rule_of_origins() -> None:
    """A cookie needs an origin; `Sec-Fetch-Site: same-origin` stands in for it, on plain HTTP only."""
    own: dict[str, str] = {"host": "chat.example.com", "scheme": "https"}
    policy = origins("https://app.example.com")
    for upgrade in (True, False):
        claimed = claimed_origin(None, ["same-origin"], upgrade=upgrade, **own)
        fault = origin_fault(policy, claimed, cookie=True, **own)
        assert bool(fault) is upgrade
        for site in (["cross-site"], ["same-site"], ["none"], [], ["same-origin", "same-origin"]):
            assert claimed_origin(None, site, upgrade=upgrade, **own) is None
    assert origin_fault(policy, None, cookie=True, **own)
    assert origin_fault(policy, None, cookie=False, **own) == ""
    assert origin_fault(policy, "https://evil.example", cookie=False, **own)
    assert (
        claimed_origin("https://evil.example", ["same-origin"], upgrade=False, **own)
        == "https://evil.example"
    )


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.org",
        "localhost.evil.org",
        "evillocalhost",
        "10.0.0.1",
        "a b",
        "a/b",
        "a@b",
        "x:0",
        "x:99999",
        "[::1",
        "[zz]",
    ],
)
def test_foreign_names_are_not(host: str) -> None:
    """A name that an attacker points at us (DNS rebinding) is refused."""
    assert not HostPolicy().allows(host)


def test_listed_hosts() -> None:
    """Exact names and subdomains; ports are not looked at."""
    policy = hosts("Chat.example.com", "*.example.net")
    assert policy.allows("chat.example.com:8443")
    assert policy.allows("a.b.example.net")
    assert not policy.allows("example.net")
    assert not policy.allows("other.example.com")


def test_hosts_are_required_in_production() -> None:
    """And a wrong one is a problem everywhere."""
    assert isinstance(parse_allowed_hosts([], required=True), list)
    assert isinstance(parse_allowed_hosts([]), HostPolicy)
    for word in ("https://chat.example.com", "chat.example.com:443", "*", "*.com"):
        assert isinstance(parse_allowed_hosts([word], required=True), list)


@given(st.text())
def test_no_header_can_make_it_fail(text: str) -> None:
    """Whatever a client sends, the answer is yes or no, and parsing is stable."""
    parse_origin(text)
    found = parse_host(text)
    assert found is None or parse_host(found[0] if ":" not in found[0] else f"[{found[0]}]") == (found[0], 0)
    assert not HostPolicy().allows("x" + text.replace("localhost", "").replace("127", ""))


@pytest.mark.parametrize(
    ("port", "allowed"), [("1", True), ("65535", True), ("0", False), ("65536", False), ("99999", False)]
)
def test_a_ports_bounds(port: str, allowed: bool) -> None:
    """1 to 65535 (RFC 3986 section 3.2.3, RFC 9293 section 3.1)."""
    assert (parse_host(f"chat.example.com:{port}") is not None) is allowed
    assert (parse_origin(f"https://chat.example.com:{port}") is not None) is allowed


def test_an_origin_of_a_scheme_without_a_port_has_none() -> None:
    """Those of apps and extensions: 0 stands for none; the web's schemes have theirs."""
    assert parse_origin("app://localhost") == Origin("app", "localhost", 0)
    assert parse_origin("https://a.example") == Origin("https", "a.example", 443)
    assert parse_origin("http://a.example:8080") == Origin("http", "a.example", 8080)
