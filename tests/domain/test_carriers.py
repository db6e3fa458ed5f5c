"""`narthex.domain.carriers`: each carrier by its RFC, and nothing secret in a repr."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.carriers import (
    AUTHORIZATION,
    COOKIE,
    E2E_KEY,
    SUBPROTOCOL,
    TICKET,
    ParsedCarriers,
    admission_headers,
    connect_header,
    parse_carriers,
    valid_test_run,
)
from narthex.domain.refusals import TABLE, Refusal
from tests.timing import TIME_UNIT

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


def presented(*headers: tuple[str, str], query: str = "") -> ParsedCarriers:
    """What a request with these headers brings."""
    return parse_carriers(admission_headers(headers), query)


def found(*headers: tuple[str, str], query: str = "") -> list[tuple[str, str]]:
    """Carrier and credential of each, in order; nothing is wrong with any."""
    brought = presented(*headers, query=query)
    assert brought.fault is None
    return [(credential.carrier, credential.value) for credential in brought.credentials]


def fault(*headers: tuple[str, str], query: str = "") -> str:
    """The code of what is wrong."""
    brought = presented(*headers, query=query)
    assert brought.fault is not None
    assert brought.fault.code in TABLE
    return brought.fault.code


class TestAuthorization:
    """RFC 6750 section 2.1."""

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_the_scheme_has_no_case(self, scheme: str) -> None:
        """RFC 9110 section 11.1."""
        assert found(("authorization", f"{scheme} {JWT}")) == [(AUTHORIZATION, JWT)]
        assert found(("authorization", f"  {scheme}   {JWT} ")) == [(AUTHORIZATION, JWT)]

    @pytest.mark.parametrize(
        "value", ["Bearer", "Bearer ", f"Bearer {JWT} {JWT}", f"Bearer {JWT},x", "Bearer tök"]
    )
    def test_a_malformed_one_is_named(self, value: str) -> None:
        """It is not skipped as if nothing had been sent."""
        assert fault(("authorization", value)) == "token_malformed"

    @pytest.mark.parametrize("value", ["Basic dXNlcjpwYXNz", "", JWT, "Negotiate abc"])
    def test_other_schemes_are_none_of_ours(self, value: str) -> None:
        """A proxy in front may use its own scheme; a refusal then names the scheme."""
        assert found(("authorization", value)) == []
        assert "scheme other than Bearer" in presented(("authorization", value)).hint

    def test_two_headers_are_refused(self) -> None:
        """Different readers would pick different ones."""
        assert fault(("authorization", f"Bearer {JWT}"), ("authorization", "Bearer other")) == "bad_request"


class TestSubprotocol:
    """RFC 6455 section 4.1, and the accepted form of docs/design.md#admission."""

    encoded = base64.urlsafe_b64encode(JWT.encode()).decode().rstrip("=")

    @pytest.mark.parametrize("token", [JWT, encoded])
    def test_raw_and_base64url(self, token: str) -> None:
        """Both forms give the same token; the token itself is never selected."""
        offered = ("sec-websocket-protocol", f"jwt-auth, jwt.{token}")
        assert found(offered) == [(SUBPROTOCOL, JWT)]
        assert presented(offered).subprotocol == "jwt-auth"

    def test_one_list_in_several_headers(self) -> None:
        """RFC 9110 section 5.3, with odd spaces and empty elements."""
        headers = [
            ("sec-websocket-protocol", " jwt-auth ,, "),
            ("sec-websocket-protocol", f"jwt.{JWT},narthex.explain"),
        ]
        assert found(*headers) == [(SUBPROTOCOL, JWT)]
        assert presented(*headers).explain

    @pytest.mark.parametrize(
        ("offered", "selected", "explain"),
        [
            ("jwt-auth", "jwt-auth", False),
            ("narthex.explain, jwt-auth", "jwt-auth", True),
            ("narthex.explain", "narthex.explain", True),
            ("centrifuge-json", None, False),
            ("", None, False),
        ],
    )
    def test_what_is_selected(self, offered: str, selected: str | None, explain: bool) -> None:
        """`jwt-auth` if offered, else `narthex.explain` if offered, else none."""
        brought = presented(("sec-websocket-protocol", offered))
        assert (brought.subprotocol, brought.explain) == (selected, explain)

    @pytest.mark.parametrize(
        "offered",
        [
            f"jwt.{JWT}",  # the legacy form, without jwt-auth
            f"jwt-auth, jwt.{JWT}, jwt.{JWT}x",
            "jwt-auth, jwt.a b",
            "jwt-auth, jwt.tök",
            "jwt-auth, jwt.YWJj=",
            "jwt-auth, a/b",
        ],
    )
    def test_a_malformed_offer_says_the_accepted_form(self, offered: str) -> None:
        """Instead of negotiating nothing in silence."""
        brought = presented(("sec-websocket-protocol", offered))
        assert brought.fault is not None
        assert brought.fault.code == "bad_request"
        assert "jwt-auth, jwt.<token>" in brought.fault.detail

    @pytest.mark.parametrize("offered", ["jwt-auth", "jwt-auth, jwt.", f"jwt, {JWT}", JWT])
    def test_a_near_miss_is_hinted_at(self, offered: str) -> None:
        """`jwt` and the token offered separately was a real incident."""
        brought = presented(("sec-websocket-protocol", offered))
        assert brought.fault is None
        assert brought.credentials == ()
        assert "jwt-auth, jwt.<token>" in brought.hint

    def test_an_opaque_token_is_taken_as_it_is(self) -> None:
        """Introspected tokens have no dots and are no base64url of a token."""
        assert found(("sec-websocket-protocol", "jwt-auth, jwt.0paque_tok-en")) == [
            (SUBPROTOCOL, "0paque_tok-en")
        ]


class TestQuery:
    """What may and what may not stand in a URL."""

    def test_a_ticket_may(self) -> None:
        """Single use and 30 s: it is worth nothing in a log."""
        assert found(query="x=1&ticket=abc-_123&format=json") == [(TICKET, "abc-_123")]

    @pytest.mark.parametrize(
        "query",
        [
            f"token={JWT}",
            f"anything={JWT}",
            f"ticket={JWT}",
            JWT,
            "token=opaque",
            "ACCESS_TOKEN=x",
            f"a=1&b=Bearer%20{JWT}",
            "q=" + JWT.replace(".", "%2E"),
            "cf_connect=%7B%22connect%22%3A%7B%22token%22%3A%22" + JWT + "%22%7D%7D",
        ],
    )
    def test_tokens_may_not(self, query: str) -> None:
        """URLs end up in logs, history and referrers; nested in JSON too."""
        assert fault(query=query) == "credential_in_url"

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("ticket=a&ticket=b", "bad_request"),
            ("ticket=a%20b", "ticket_invalid"),
            ("ticket=", "ticket_invalid"),
            ("ticket=" + "a" * 129, "ticket_invalid"),
            ("&".join(f"a{n}=1" for n in range(40)), "bad_request"),
        ],
    )
    def test_malformed_ones(self, query: str, code: str) -> None:
        """Named before the store is asked."""
        assert fault(query=query) == code

    def test_a_plain_query_is_nothing(self) -> None:
        """Frameworks add their own."""
        assert found(query="token=&v=2&eyJ") == []


class TestCookie:
    """RFC 6265 section 5.4."""

    def test_among_others(self) -> None:
        """Whatever surrounds it, in one header or several."""
        assert found(("cookie", f"a=1; narthex_session={JWT}; b=x=y")) == [(COOKIE, JWT)]
        assert found(("cookie", "a=1"), ("cookie", f'narthex_session="{JWT}"')) == [(COOKIE, JWT)]

    @pytest.mark.parametrize(
        "value", ["a=1", "xnarthex_session=1", "narthex_session=", "narthex_session", "x=narthex_session"]
    )
    def test_not_there(self, value: str) -> None:
        """An empty one is a logged-out browser."""
        assert found(("cookie", value)) == []

    def test_two_different_ones_are_a_conflict(self) -> None:
        """A neighbouring subdomain can plant one, and their order proves nothing."""
        assert fault(("cookie", "narthex_session=a; narthex_session=b")) == "credential_conflict"
        assert found(("cookie", "narthex_session=a; narthex_session=a")) == [(COOKIE, "a")]

    def test_the_hosts_own_name_decides(self) -> None:
        """No other host can set it, so a cookie that a neighbour planted beside it is not a conflict."""
        both = ("cookie", f"narthex_session=planted; __Host-narthex_session={JWT}")
        assert found(both) == [(COOKIE, JWT)]
        twice = ("cookie", "__Host-narthex_session=a; __Host-narthex_session=b")
        assert fault(twice) == "credential_conflict"

    def test_over_https_the_plain_name_is_nobodys(self) -> None:
        """A neighbouring host, or an attacker on plain http, can set it, which would sign users in as the attacker."""
        headers = {"cookie": [f"narthex_session={JWT}"]}
        assert len(parse_carriers(headers, "").credentials) == 1
        assert parse_carriers(headers, "", secure=True).credentials == ()
        own = {"cookie": [f"__Host-narthex_session={JWT}"]}
        assert len(parse_carriers(own, "", secure=True).credentials) == 1


class TestEndToEnd:
    """The key's header and the test run's."""

    def test_key_and_test_run(self) -> None:
        """The run is no credential."""
        brought = presented(("x-e2e-bypass-key", " key "), ("x-e2e-test-run", "run-7"))
        assert [(c.carrier, c.value) for c in brought.credentials] == [(E2E_KEY, "key")]
        assert brought.test_run == "run-7"

    def test_an_empty_key_is_kept(self) -> None:
        """A harness with an empty variable should learn that its key is wrong."""
        assert found(("x-e2e-bypass-key", "")) == [(E2E_KEY, "")]

    def test_malformed_ones(self) -> None:
        """Two keys; a run that could not be part of a subject."""
        assert fault(("x-e2e-bypass-key", "a"), ("x-e2e-bypass-key", "b")) == "bad_request"
        for run in ("", "a b", "a:b", "x" * 65, "ü"):
            assert fault(("x-e2e-test-run", run)) == "bad_request"
            assert not valid_test_run(run)


def test_all_carriers_in_their_order() -> None:
    """The order in which a refusal names them."""
    names = [
        carrier
        for carrier, _ in found(
            ("x-e2e-bypass-key", "k"),
            ("cookie", "narthex_session=c"),
            ("sec-websocket-protocol", "jwt-auth, jwt.s"),
            ("authorization", "Bearer a"),
            query="ticket=t",
        )
    ]
    assert names == [AUTHORIZATION, SUBPROTOCOL, TICKET, COOKIE, E2E_KEY]


def test_the_first_fault_counts() -> None:
    """One refusal names one thing to mend."""
    assert (
        fault(("authorization", "Bearer"), ("sec-websocket-protocol", "a/b"), query="token=x")
        == "token_malformed"
    )


def test_a_repr_shows_no_credential() -> None:
    """It ends up in tracebacks and logs."""
    brought = presented(("authorization", f"Bearer {JWT}"), ("x-e2e-bypass-key", "hunter2hunter2"))
    assert JWT[:8] not in repr(brought)
    assert "hunter2" not in repr(brought)


HEADER_TEXT = st.text(alphabet=st.characters(max_codepoint=255), max_size=80)
NAMES = st.sampled_from(
    [
        "authorization",
        "cookie",
        "sec-websocket-protocol",
        "x-e2e-bypass-key",
        "x-e2e-test-run",
        "origin",
        "other",
    ]
)


@given(st.lists(st.tuples(NAMES, HEADER_TEXT), max_size=8), st.text(max_size=120))
def test_no_request_can_make_it_fail(headers: list[tuple[str, str]], query: str) -> None:
    """Every request has an answer: credentials, or a fault of the table; never an exception, never an echo."""
    brought = presented(*headers, query=query)
    assert brought.fault is None or brought.fault.code in TABLE
    assert brought.subprotocol in (None, "jwt-auth", "narthex.explain")
    for credential in brought.credentials:
        assert credential.value not in brought.hint or len(credential.value) < 12


@given(st.from_regex(r"[A-Za-z0-9_-]{4,40}\.[A-Za-z0-9_-]{4,80}\.[A-Za-z0-9_-]{0,60}", fullmatch=True))
def test_every_carrier_gives_the_token_back(token: str) -> None:
    """Any token, raw or encoded, in a header or a cookie."""
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    assert found(("authorization", f"Bearer {token}"))[0][1] == token
    assert found(("sec-websocket-protocol", f"jwt-auth,jwt.{token}"))[0][1] == token
    assert found(("sec-websocket-protocol", f"jwt.{encoded},jwt-auth"))[0][1] == token
    assert found(("cookie", f"z=1; narthex_session={token}"))[0][1] == token


@pytest.mark.alone
@pytest.mark.parametrize(
    "query",
    ["eyJ" * 5_300, "eyJaaaaaa" * 1_700, "eyJaaaaa.aa" * 1_400, "%65%79%4A" * 1_700, "a=eyJ&" * 2_600],
)
def test_a_hostile_query_costs_no_time(query: str) -> None:
    """16 KB from any client, before a credential: linear time, so that it cannot stall the loop."""
    began = time.perf_counter()
    presented(query=query)
    assert time.perf_counter() - began < 0.03 * TIME_UNIT


@pytest.mark.parametrize(("length", "allowed"), [(128, True), (129, False)])
def test_a_tickets_length_is_bounded(length: int, allowed: bool) -> None:
    """Ours have 43 characters."""
    found = parse_carriers({}, f"ticket={'a' * length}")
    assert (found.fault is None) is allowed
    assert bool(found.credentials) is allowed


@pytest.mark.parametrize(("length", "allowed"), [(0, False), (1, True), (64, True), (65, False)])
def test_a_test_runs_length_is_bounded(length: int, allowed: bool) -> None:
    """1 to 64, in the header as in a token."""
    assert valid_test_run("r" * length) is allowed


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        (None, None),
        ({}, None),
        ({"X-Other": "Bearer a.b.c"}, None),
        ({"Authorization": "Bearer a.b.c"}, "a.b.c"),
        ({"authorization": "bearer a.b.c"}, "a.b.c"),
        ({"AUTHORIZATION": "Basic dTpw"}, None),
        ({"authorization": "Bearer a b"}, "token_malformed"),
        ({"authorization": "Bearer "}, "token_malformed"),
        ({"authorization": "Bearer a.b.c", "Authorization": "Bearer d.e.f"}, "bad_request"),
    ],
)
def test_the_emulated_header_has_the_form_of_the_real_one(
    headers: dict[str, str] | None, token: str | None
) -> None:
    """In any case of letters; two of them, or a malformed one, are refused as in a request's head."""
    found = connect_header(headers)
    assert (found.code if isinstance(found, Refusal) else found) == token
