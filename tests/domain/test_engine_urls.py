"""Engine URLs: every character of a password, several hosts, and errors that quote nothing."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.engine_urls import (
    BadEngineUrl,
    Host,
    parse_engine_url,
    parse_engine_urls,
    secrets_of,
    shown,
)

MEANING = "/?#%"


@given(user=st.text(min_size=1, max_size=20), password=st.text(max_size=40))
def test_encoded_credentials_come_back(user: str, password: str) -> None:
    """Any user and password: encoded it is read back unchanged, and no part of it is shown."""
    user, password = (text.encode("utf-8", "replace").decode() for text in (user, password))
    text = (
        f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db.example:5432/app?sslmode=require"
    )
    url = parse_engine_url(text)
    assert (url.user, url.password) == (user, password)
    assert url.shown == "postgresql://db.example:5432/app"
    assert parse_engine_url(f"redis://{url.credentials}h").password == password


@pytest.mark.parametrize("character", string.punctuation + "äß€ ")
@pytest.mark.parametrize("place", ["{}secret", "sec{}ret", "secret{}", "1{}2=3"])
def test_raw_characters_are_read_or_refused(character: str, place: str) -> None:
    """A password that was not encoded is read as it is, or refused without a part of it in the reason."""
    password = place.format(character)
    text = f"postgresql://app:{password}@db.example/app"
    try:
        url = parse_engine_url(text)
    except BadEngineUrl as fault:
        assert character in MEANING + " "
        assert "secret" not in str(fault)
        assert "ret" not in str(fault).replace("secret", "")
        assert "secret" not in shown(text)
        assert "db.example" not in shown(text)
    else:
        assert url.password == password
        assert url.hosts == (Host("db.example", None),)
        assert "secret" not in url.shown
        assert password in secrets_of(text)


def test_several_hosts_and_addresses() -> None:
    """Names, IPv6 addresses and sockets, each with or without a port."""
    url = parse_engine_url("postgresql://u@a:1,b,[2001:db8::1]:5432,%2Fvar%2Frun/db")
    assert url.hosts == (Host("a", 1), Host("b", None), Host("2001:db8::1", 5432), Host("/var/run", None))
    assert url.shown == "postgresql://a:1,b,[2001:db8::1]:5432,%2Fvar%2Frun/db"
    assert url.servers(5432) == "a:1, b:5432, [2001:db8::1]:5432, %2Fvar%2Frun:5432"
    assert parse_engine_url("postgresql:///db?host=/tmp").options == {"host": "/tmp"}
    assert parse_engine_url("redis://:p@h").user is None


@pytest.mark.parametrize(
    "text",
    [
        "db",
        "postgres:secret",
        "x://h:secret",
        "x://h:0",
        "x://[secret/db",
        "x://u:12?secret@h/db",
        "x://u:1/secret@h",
        "x://u:1?a=secret@h",
        "x://h?secret",
    ],
)
def test_what_cannot_be_read_is_not_quoted(text: str) -> None:
    """The reason does not quote the value."""
    with pytest.raises(BadEngineUrl) as refused:
        parse_engine_url(text)
    assert "secret" not in str(refused.value)
    assert "secret" not in shown(text)
    assert not any("secret" in text.replace(part, "") for part in secrets_of(text)[:1] if part == text)


def test_options_keep_a_plus() -> None:
    """They are percent-decoded and nothing else."""
    assert parse_engine_url("x://h/db?user=a%2Bb+c%40d").options == {"user": "a+b+c@d"}
    assert "pw-in-query" in secrets_of("x://h/db?password=pw-in-query")


def test_a_cluster_may_be_several_urls() -> None:
    """`nats://a,nats://b` is how NATS clusters are given; it is read, shown, and keeps its passwords to itself."""
    text = "nats://u:hidden1@a:4222,nats://u:hidden1@b:4223?replicas=3"
    assert [url.hosts for url in parse_engine_urls(text)] == [(Host("a", 4222),), (Host("b", 4223),)]
    assert parse_engine_urls(text)[-1].options == {"replicas": "3"}
    assert shown(text) == "nats://a:4222,nats://b:4223"
    assert secrets_of(text) == ["hidden1"]


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("x://h", ""),
        ("x://u@h", "u@"),
        ("x://:p@h", ":p@"),
        ("x://u:@h", "u:@"),
        ("x://a%3Ab:p%40%2F@h", "a%3Ab:p%40%2F@"),
    ],
)
def test_credentials_go_on_to_a_driver_encoded(text: str, credentials: str) -> None:
    """As they were given, so that the driver reads the same user and password."""
    assert parse_engine_url(text).credentials == credentials


def test_a_port_is_a_number_that_a_socket_can_have() -> None:
    """1 to 65,535, in ASCII digits; a question mark or ampersand with nothing behind it is no option."""
    assert parse_engine_url("x://h:65535/?a=1&&b=2&").hosts == (Host("h", 65_535),)
    assert parse_engine_url("x://h:1/?a=1&&b=2&").options == {"a": "1", "b": "2"}
    for port in ("0", "65536", "\u0661", ""):
        with pytest.raises(BadEngineUrl):
            parse_engine_url(f"x://h:{port}/")
