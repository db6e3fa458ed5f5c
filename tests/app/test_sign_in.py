"""Sign-in with another provider: state bound to the browser, and the resulting account."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from narthex.app.provider import Denied, ProviderPolicy, UserSession
from narthex.app.sign_in import STATE_TTL_S, SignIn, SignInAttempt
from narthex.domain.identity import Identity
from narthex.domain.verdict import Rejected, Unavailable
from narthex.errors import DependencyError
from narthex.ports.sign_in import SignedInUser
from tests.adapters.tokens.memory import as_port
from tests.app.test_provider import Rig

CALLBACK = "https://gw.example/auth/oidc/callback"


class Elsewhere:
    """An identity provider that signs in the user in `answer`, once per code."""

    issuer = "https://id.example"

    def __init__(self) -> None:
        self.answer: SignedInUser | Rejected | Unavailable = SignedInUser(
            identity=Identity(subject="sub-1", tenant="acme", plan="mid", name="Ada"), email="ada@example.com"
        )
        self.redeemed: list[dict[str, str]] = []
        self.asked: dict[str, str] = {}

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        self.asked = {"redirect_uri": redirect_uri, "state": state, "nonce": nonce, "challenge": challenge}
        return f"{self.issuer}/authorize?state={state}"

    async def redeem(
        self, code: str, *, redirect_uri: str, verifier: str, nonce: str, now: float
    ) -> SignedInUser | Rejected | Unavailable:
        self.redeemed.append(
            {"code": code, "redirect_uri": redirect_uri, "verifier": verifier, "nonce": nonce}
        )
        return self.answer

    async def stop(self) -> None:
        """Nothing runs."""


async def rig() -> tuple[Rig, Elsewhere, SignIn]:
    """A provider here, one elsewhere, and the sign-in between them."""
    here = await Rig(ProviderPolicy(open_login=True, oidc_issuer=Elsewhere.issuer)).start()
    elsewhere = Elsewhere()
    return here, elsewhere, SignIn(here.provider, elsewhere, as_port(here.store), clock=lambda: here.now)


async def begin(sign_in: SignIn, next_path: str = "/") -> SignInAttempt:
    """Start the sign-in; returns the content of the browser's cookie."""
    _, cookie = await sign_in.begin(redirect_uri=CALLBACK, next_path=next_path)
    attempt = sign_in.attempt_of(cookie)
    assert attempt is not None
    return attempt


async def finish(sign_in: SignIn, attempt: SignInAttempt | None, **changes: str) -> UserSession | Denied:
    """Return as the provider would redirect the browser."""
    query = {"state": attempt.state if attempt else "", "code": "c", "issuer": "", **changes}
    return await sign_in.finish(attempt, redirect_uri=CALLBACK, **query)


async def test_there_and_back_gives_a_session_of_the_same_subject() -> None:
    """So that the provider's own tokens and the session here belong to one user; PKCE and nonce are passed through."""
    here, elsewhere, sign_in = await rig()
    url, cookie = await sign_in.begin(redirect_uri=CALLBACK, next_path="/dashboard")
    assert url.startswith("https://id.example/authorize")
    attempt = sign_in.attempt_of(cookie)
    assert attempt is not None and attempt.next_path == "/dashboard"
    session = await finish(sign_in, attempt)
    assert isinstance(session, UserSession)
    assert here.identity(session).user == "acme/sub-1"
    assert session.user.email == "ada@example.com"
    sent = elsewhere.redeemed[0]
    assert sent["nonce"] == elsewhere.asked["nonce"]
    digest = hashlib.sha256(sent["verifier"].encode()).digest()
    assert urlsafe_b64encode(digest).rstrip(b"=").decode() == elsewhere.asked["challenge"]
    assert len({attempt.state, attempt.nonce, attempt.verifier}) == 3


async def test_another_browser_or_a_late_one_is_not_signed_in() -> None:
    """No cookie, another state, too late, another issuer, an error instead of a code: no code is redeemed."""
    here, elsewhere, sign_in = await rig()
    _, cookie = await sign_in.begin(redirect_uri=CALLBACK, next_path="/")
    attempt = sign_in.attempt_of(cookie)
    assert attempt is not None
    for found in (
        await finish(sign_in, None, state=attempt.state),
        await finish(sign_in, attempt, state="forged"),
        await finish(sign_in, attempt, state=""),
        await finish(sign_in, attempt, issuer="https://evil.example"),
        await finish(sign_in, attempt, code=""),
    ):
        assert isinstance(found, Denied)
    assert not elsewhere.redeemed
    here.now += STATE_TTL_S + 1
    assert sign_in.attempt_of(cookie) is None


@pytest.mark.parametrize("cookie", ["", "x", "e30", "a.b.c", "é", "A" * 5_000])
async def test_a_cookie_of_somebody_elses_is_none(cookie: str) -> None:
    """No exception is raised."""
    _, _, sign_in = await rig()
    assert sign_in.attempt_of(cookie) is None


async def test_only_we_make_a_journeys_cookie() -> None:
    """An altered one, one of another gateway's keys and an access token are refused; nor is a cookie an access
    token.
    """
    here, _, sign_in = await rig()
    _, cookie = await sign_in.begin(redirect_uri=CALLBACK, next_path="/")
    head, payload, signature = cookie.split(".")
    text = urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).replace(
        b'"next_path":"/"', b'"next_path":"/x"'
    )
    forged = urlsafe_b64encode(text).rstrip(b"=").decode()
    assert sign_in.attempt_of(f"{head}.{forged}.{signature}") is None
    _, _, another = await rig()
    assert another.attempt_of(cookie) is None
    session = await here.provider.login("bob@example.com", "", address="192.0.2.1")
    assert isinstance(session, UserSession)
    assert sign_in.attempt_of(session.access_token) is None
    assert isinstance(here.router.verify(cookie, now=here.now, traffic="user"), Rejected)


async def test_a_journey_serves_once() -> None:
    """The browser's cookie and the state may leak together, in a shared browser's history: they work once."""
    here, elsewhere, sign_in = await rig()
    attempt = await begin(sign_in)
    assert isinstance(await finish(sign_in, attempt), UserSession)
    assert [ends for _, ends in here.store.tickets.values()] == [here.now + STATE_TTL_S], (
        "as long as its cookie"
    )
    again = await finish(sign_in, attempt)
    assert isinstance(again, Denied)
    assert len(elsewhere.redeemed) == 1


async def test_a_refused_code_and_an_absent_provider_are_told_apart() -> None:
    """The first is a denial, the second "retry later"."""
    _, elsewhere, sign_in = await rig()
    elsewhere.answer = Rejected("token_invalid", "No.")
    found = await finish(sign_in, await begin(sign_in))
    assert isinstance(found, Denied)
    elsewhere.answer = Unavailable("away", 3)
    with pytest.raises(DependencyError) as caught:
        await finish(sign_in, await begin(sign_in))
    assert caught.value.retry_after_s == 3


async def test_an_e_mail_alone_takes_nobodys_account() -> None:
    """The same e-mail elsewhere is another user; without a verified one a placeholder is used; both return to their own
    account.
    """
    here, elsewhere, sign_in = await rig()
    elsewhere.answer = SignedInUser(identity=Identity(subject="sub-1"), email="bob@example.com")
    bob = await here.provider.login("bob@example.com", "", address="192.0.2.1")
    session = await finish(sign_in, await begin(sign_in))
    assert isinstance(bob, UserSession)
    assert isinstance(session, UserSession)
    assert session.user.user_id == "sub-1" != bob.user.user_id
    assert session.user.email.endswith("@id.example")
    again = await finish(sign_in, await begin(sign_in))
    assert isinstance(again, UserSession)
    assert again.user.user_id == "sub-1"
    for subject in ("SUB-1", "sub-2"):  # subjects are case-sensitive too
        elsewhere.answer = SignedInUser(identity=Identity(subject=subject))
        other = await finish(sign_in, await begin(sign_in))
        assert isinstance(other, UserSession)
        assert other.user.user_id == subject


async def test_a_blocked_user_stays_out_and_test_identities_do_not_come_this_way() -> None:
    """The block applies to sign-in elsewhere too."""
    here, elsewhere, sign_in = await rig()
    assert isinstance(await finish(sign_in, await begin(sign_in)), UserSession)
    await here.provider.block_user("acme", "sub-1", blocked=True, reason="abuse")
    found = await finish(sign_in, await begin(sign_in))
    assert isinstance(found, Denied)
    assert found.code == "account_blocked"
    elsewhere.answer = SignedInUser(identity=Identity(subject="x", tenant="e2e", e2e=True))
    assert isinstance(await finish(sign_in, await begin(sign_in)), Denied)


async def test_a_denial_says_why() -> None:
    """The provider's own words, or that its answer is not valid."""
    _, elsewhere, sign_in = await rig()
    for said, shown in (("No.", "No."), ("", "The provider's answer is not valid.")):
        elsewhere.answer = Rejected("token_invalid", said)
        assert await finish(sign_in, await begin(sign_in)) == Denied(code="login_failed", detail=shown)
