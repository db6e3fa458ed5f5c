"""Addresses of PostgreSQL: hosts, and each parameter that consoles use, honoured, dropped or refused by name."""

from __future__ import annotations

import pytest

from narthex.adapters.stores.postgres_address import CONNECT_S, parse_postgres
from narthex.errors import ConfigError


def test_hosts_and_credentials() -> None:
    """One URL per host, credentials encoded, none of them in the shown form."""
    found = parse_postgres("postgresql://app:p%2F%40%23@a,b:6000/db%20one?sslmode=require")
    tail = "/db%20one?sslmode=require"
    assert found.urls == (
        f"postgresql://app:p%2F%40%23@a:5432{tail}",
        f"postgresql://app:p%2F%40%23@b:6000{tail}",
    )
    assert found.shown == "a:5432, b:6000/db one"
    assert (found.user, found.session_attrs, found.connect_s) == ("app", "read-write", CONNECT_S / 2)


def test_everything_in_the_query() -> None:
    """As libpq's keyword form is written into a URL; sockets and addresses are hosts as well."""
    found = parse_postgres("postgres:///?host=/run/pg,h&port=1,2&user=u&password=a%26b&dbname=d")
    assert found.urls == ("postgresql://u:a%26b@%2Frun%2Fpg:1/d", "postgresql://u:a%26b@h:2/d")
    assert parse_postgres("postgresql://u@/d?hostaddr=10.0.0.1").urls == ("postgresql://u@10.0.0.1:5432/d",)
    assert parse_postgres("postgresql:///d").urls == ()


@pytest.mark.parametrize(
    ("query", "noted"),
    [
        ("channel_binding=require", "channel_binding"),
        ("channel_binding=prefer", ""),
        ("gssencmode=disable&keepalives=1&sslsni=1&client_encoding=utf8", ""),
        ("schema=public", ""),
        ("schema=chat", "schema"),
        ("connection_limit=5&pool_timeout=0", "connection_limit"),
        ("workaround=supabase-pooler.vercel", "workaround"),
    ],
)
def test_what_is_dropped(query: str, noted: str) -> None:
    """With a note if it would have an effect; never with its value."""
    notes = parse_postgres(f"postgresql://h/d?{query}").notes
    assert bool(notes) == bool(noted)
    assert noted in "".join(notes)
    assert "vercel" not in "".join(notes)


def test_what_is_honoured() -> None:
    """Time-outs, names, poolers, TLS."""
    found = parse_postgres(
        "postgresql://h/d?connect_timeout=2&application_name=x&pgbouncer=true&sslrootcert=system&sslmode=verify-full"
        "&options=endpoint%3Dep-1&target_session_attrs=any"
    )
    assert (found.connect_s, found.pooled, found.system_roots) == (2.0, True, True)
    assert found.settings == {"application_name": "x", "options": "endpoint=ep-1"}
    assert found.session_attrs == "any"
    assert found.urls == ("postgresql://h:5432/d?sslmode=verify-full",)
    assert parse_postgres("postgresql://h/d?statement_cache_size=0").pooled
    assert "sslmode=require" in parse_postgres("postgresql://h/d?requiressl=1").urls[0]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "sslmode=secret",
            "target_session_attrs=standby",
            "connect_timeout=secret",
            "port=secret",
            "port=1,2",
        ),
        *("gssencmode=require", "search_path=secret", "replication=true", "require_auth=scram-sha-256"),
    ],
)
def test_what_is_refused(query: str) -> None:
    """By name, with every problem at once, and without the value."""
    with pytest.raises(ConfigError) as refused:
        parse_postgres(f"postgresql://h/d?{query}&replication=1")
    assert query.partition("=")[0] in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "connect_s"),
    [("", CONNECT_S), ("connect_timeout=", CONNECT_S), ("connect_timeout=0", CONNECT_S), ("connect_timeout=2", 2.0),
     ("connect_timeout=5", 5.0), ("connect_timeout=6", CONNECT_S)],
)  # fmt: skip
def test_the_time_for_a_connection(query: str, connect_s: float) -> None:
    """Nothing and zero mean the usual time, which is also the most."""
    assert parse_postgres(f"postgresql://h/d?{query}").connect_s == connect_s
