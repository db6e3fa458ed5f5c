"""`narthex.domain.addresses`: a forwarding header counts exactly as far as it was written by a trusted proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.addresses import (
    ClientAddress,
    TrustedProxies,
    bucket,
    canonical,
    client_of,
    parse_trusted_proxies,
)

PEER = "10.0.0.9"


def trusted(*words: str, platform: str = "") -> TrustedProxies:
    """A setting that is right."""
    found = parse_trusted_proxies(words, platform=platform)
    assert isinstance(found, TrustedProxies)
    return found


def of(
    forwarded: str | None, proxies: TrustedProxies, proto: str | None = None, peer: str = PEER
) -> ClientAddress:
    """The client of a request over plain TCP."""
    return client_of(
        peer, False, [forwarded] if forwarded is not None else [], [proto] if proto else [], proxies
    )


def test_without_trusted_proxies_headers_do_not_count() -> None:
    """Any client can set them."""
    assert of("1.2.3.4", trusted(), "https") == ClientAddress(PEER, "http")
    assert client_of(PEER, True, [], ["http"], trusted()) == ClientAddress(PEER, "https")


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", "1.2.3.4"),  # what the client wrote itself stands to the left
        ("1.2.3.4, 10.0.0.3", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.3, 10.1.2.3", "1.2.3.4"),
        ("1.2.3.4:5555", "1.2.3.4"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("1.2.3.4, unknown", PEER),  # a proxy that hides it: no further than the peer is known
        ("garbage", PEER),
        ("", PEER),
        (" , ,1.2.3.4,, ", "1.2.3.4"),
    ],
)
def test_networks_of_proxies_are_walked_from_the_right(forwarded: str, expected: str) -> None:
    """Up to the first address that is no proxy of ours."""
    assert of(forwarded, trusted("10.0.0.0/8")).address == expected


def test_a_peer_that_is_no_proxy_is_the_client() -> None:
    """It cannot claim to have forwarded anything, scheme included."""
    assert of("1.2.3.4", trusted("10.0.0.0/8"), "https", peer="9.9.9.9") == ClientAddress("9.9.9.9", "http")


def test_cloud_run_takes_the_last_hop() -> None:
    """Google's front end appends what it saw; anything before is the client's own writing."""
    proxies = trusted(platform="cloud-run")
    assert of("6.6.6.6, 1.2.3.4", proxies, "https", peer="169.254.1.1") == ClientAddress("1.2.3.4", "https")
    assert trusted(platform="kubernetes").none


def test_hops_are_counted_from_the_right() -> None:
    """Two proxies in front: the second entry from the right; a shorter chain gives its last entry."""
    assert of("6.6.6.6, 1.2.3.4, 5.5.5.5", trusted("2")).address == "1.2.3.4"
    assert of("1.2.3.4", trusted("2")).address == "1.2.3.4"
    assert of(None, trusted("2")).address == PEER


def test_several_header_lines_are_one_list() -> None:
    """RFC 9110 section 5.3."""
    assert client_of(PEER, False, ["6.6.6.6", "1.2.3.4"], [], trusted("1")).address == "1.2.3.4"


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("wss", "https"),
        ("http", "http"),
        ("gopher", "http"),
        ("http,https", "https"),
    ],
)
def test_the_scheme_is_the_trusted_proxy_s(proto: str, scheme: str) -> None:
    """The last entry, and only schemes that exist."""
    assert of("1.2.3.4", trusted("1"), proto).scheme == scheme


def test_settings_report_every_wrong_word() -> None:
    """Each as a sentence with the remedy."""
    found = parse_trusted_proxies(["proxy.internal", "10.0.0.0/33", "99"])
    assert isinstance(found, list)
    assert len(found) == 3
    assert all("NARTHEX_TRUSTED_PROXIES" in problem for problem in found)


def test_an_ipv6_household_is_one_key() -> None:
    """A client with a /64 has 2^64 addresses."""
    assert bucket("2001:db8::1") == bucket("2001:db8::ffff")
    assert bucket("2001:db8::1") != bucket("2001:db8:0:1::1")
    assert bucket("1.2.3.4") == "1.2.3.4"
    assert bucket("not:an:address") == "not:an:address"


@given(
    st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4), st.sampled_from(["", "1", "10.0.0.0/8"])
)
def test_no_header_can_make_it_fail_or_lie(values: list[str], protos: list[str], setting: str) -> None:
    """The answer is always a canonical address and one of two schemes."""
    found = client_of(PEER, False, values, protos, trusted(*filter(None, [setting])))
    assert canonical(found.address) == found.address
    assert found.scheme in ("http", "https")


@pytest.mark.parametrize(("hops", "allowed"), [(16, True), (17, False)])
def test_hops_are_bounded(hops: int, allowed: bool) -> None:
    """Sixteen proxies in a row are plausible, more are a mistake."""
    assert isinstance(parse_trusted_proxies([str(hops)]), TrustedProxies) is allowed
