"""Seeded faults: the gateway is started with this folder on its PYTHONPATH, and SEEDED_FAULT names the fault.

Python imports `sitecustomize` before the program; nothing outside of tests/e2e/test_mutations.py sets that path. Not
here: which scenario must notice (test_mutations). Rules: a fault is a change that a careless commit could make; it
breaks one guarantee and leaves the rest intact, so that the suite has to name it.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from typing import Any

FAULTS: dict[str, Callable[[], None]] = {}


def fault(body: Callable[[], None]) -> Callable[[], None]:
    """Register a fault under its function's name."""
    FAULTS[body.__name__] = body
    return body


@fault
def swallowed_event() -> None:
    """Every sixth publication is counted and not sent."""
    from narthex.app.hub.channel import Channel

    accept, seen = Channel.accept, [0]

    def leaky(self: Channel, publication: Any) -> Any:
        seen[0] += 1
        if seen[0] % 6 == 0:
            self.last = publication.offset
            return None
        return accept(self, publication)

    Channel.accept = leaky  # type: ignore[method-assign]  # that is the fault


@fault
def duplicate_event() -> None:
    """Every sixth publication is sent twice."""
    from narthex.app.hub.channel import Channel

    accept, seen = Channel.accept, [0]

    def stuttering(self: Channel, publication: Any) -> Any:
        seen[0] += 1
        if seen[0] % 6 == 0:
            accept(self, publication)
        return accept(self, publication)

    Channel.accept = stuttering  # type: ignore[method-assign]  # that is the fault


@fault
def wrong_digest() -> None:
    """The terminal event's digest does not match its events."""
    from narthex.domain.digest import Digest

    Digest.value = lambda self, following=None: "0" * 64  # type: ignore[method-assign]  # that is the fault


@fault
def cancel_ignored() -> None:
    """Cancel is acknowledged, and the run continues."""
    from narthex.app.runs.execution import Execution

    Execution.cancel = lambda self, by: None  # type: ignore[method-assign]  # that is the fault


@fault
def steering_ignored() -> None:
    """Steering is acknowledged, and the agent never receives it."""
    from narthex.app.runs.session import AgentSession

    AgentSession.steer_with = lambda self, text: None  # type: ignore[method-assign]  # that is the fault


@fault
def wrong_close_code() -> None:
    """A client without a credential is closed with 1000, as if nothing were wrong."""
    from narthex.protocol import codes

    codes.INVALID_TOKEN = codes.Disconnect(1000, "bye")  # type: ignore[misc]  # that is the fault


@fault
def explain_without_reason() -> None:
    """A refusal in a close frame has its code and no text."""
    from narthex.domain.refusals import Refusal

    close = Refusal.close
    Refusal.close = lambda self: (close(self)[0], "")  # type: ignore[method-assign]  # that is the fault


@fault
def bypass_left_open() -> None:
    """Any key is accepted for a test identity."""
    from narthex.app.e2e import KeyProofs

    KeyProofs.check = lambda self, candidate, address: None  # type: ignore[method-assign]  # that is the fault


@fault
def health_that_lies() -> None:
    """Health reports a closed bypass while it is open."""
    from narthex.app.health import Health

    report = Health.report

    async def lying(self: Health, *, fresh: bool = False) -> dict[str, object]:
        body = await report(self, fresh=fresh)
        e2e: Any = body["e2e_testing"]
        return body | {"e2e_testing": e2e | {"auth_bypass_active": False}}

    Health.report = lying  # type: ignore[method-assign]  # that is the fault


@fault
def health_over_a_dead_store() -> None:
    """The store's check fails, and health is still `healthy`."""
    from narthex.app.health import Health

    report = Health.report

    async def lying(self: Health, *, fresh: bool = False) -> dict[str, object]:
        body = await report(self, fresh=fresh)
        checks: Any = body["checks"]
        broken = checks | {"store": checks["store"] | {"status": "unhealthy", "detail": "it is away"}}
        return body | {"checks": broken}

    Health.report = lying  # type: ignore[method-assign]  # that is the fault


@fault
def leaked_channel() -> None:
    """Every user of a tenant is a member of every thread."""
    from narthex.app.chat import Chat

    role = Chat.role

    async def generous(self: Chat, identity: Any, thread_id: str) -> str:
        return await role(self, identity, thread_id) or "member"

    Chat.role = generous  # type: ignore[method-assign]  # that is the fault


@fault
def removed_member_stays() -> None:
    """A removed member keeps the thread's channel."""
    from narthex.app import controls

    controls.remove_server_side = lambda *words: None  # type: ignore[attr-defined]  # that is the fault


@fault
def tenant_check_off() -> None:
    """Neither channels nor permissions depend on the tenant."""
    from narthex.domain import channels

    key = channels.channel_key
    channels.channel_key = lambda tenant, name: key("all", name)  # before other modules import it by name
    leaked_channel()


@fault
def signature_unchecked() -> None:
    """Claims are read without verifying the signature."""
    from narthex.adapters.tokens import keys

    for kind in _classes(keys, "verifies"):
        kind.verifies = lambda self, algorithm, signing_input, signature: True


@fault
def ticket_reusable() -> None:
    """A ticket is read and not consumed."""
    from narthex.app.credentials import CredentialVerifier

    ticket = CredentialVerifier._ticket
    CredentialVerifier._ticket = functools.partialmethod(  # type: ignore[method-assign,assignment]  # that is the fault
        lambda self, value, *, consume: ticket(self, value, consume=False)
    )


@fault
def recovery_skips() -> None:
    """A recovery leaves out its first publication and reports that it is complete."""
    from narthex.app.commands.subscribing import Subscriptions

    read = Subscriptions._read

    async def skipping(self: Any, key: str, request: Any) -> Any:
        page, result = await read(self, key, request)
        if result.publications:
            result.publications = result.publications[1:]
        return page, result

    Subscriptions._read = skipping  # type: ignore[method-assign]  # that is the fault


@fault
def recovery_in_part() -> None:
    """A position of another epoch is reported as recovered."""
    import msgspec

    from narthex.app.commands.subscribing import Subscriptions

    read = Subscriptions._read

    async def pretending(self: Any, key: str, request: Any) -> Any:
        page, result = await read(self, key, request)
        if result.was_recovering:
            result = msgspec.structs.replace(result, recovered=True)
        return page, result

    Subscriptions._read = pretending  # type: ignore[method-assign]  # that is the fault


@fault
def origin_unchecked() -> None:
    """Pages of every origin may connect."""
    from narthex.domain.origins import OriginPolicy

    OriginPolicy.allows = lambda self, origin, *, host, scheme: True  # type: ignore[method-assign]  # that is the fault


@fault
def client_may_publish() -> None:
    """A client's own `publish` is accepted."""
    from narthex.app.commands.channels import ChannelCommands
    from narthex.protocol.replies import encode_reply

    ChannelCommands.publish = (  # type: ignore[method-assign]  # that is the fault
        lambda self, connection, command: encode_reply(command.id, "publish", {})
    )


@fault
def twice_is_two() -> None:
    """The same client_message_id creates another message each time, at once or later."""
    from narthex.app import starting
    from narthex.app.chat import Chat

    async def forgotten(self: Chat, *words: Any) -> None:
        """Every message counts as new."""

    Chat.run_of_message = forgotten  # type: ignore[method-assign,assignment]  # that is the fault
    starting.derived_id = lambda *words: secrets.token_hex(16)  # type: ignore[attr-defined]  # that is the fault


@fault
def notices_lost() -> None:
    """A user's other devices get no notices."""
    from narthex.app.chat import Chat

    async def silent(self: Any, *words: Any, **more: Any) -> None:
        """Send nothing."""

    Chat.notify_members = silent  # type: ignore[method-assign]  # that is the fault


@fault
def unicode_mangled() -> None:
    """Characters outside ASCII are stored as question marks."""
    from narthex.app.chat import Chat

    post = Chat.post

    async def mangling(self: Chat, identity: Any, thread_id: str, message_id: str, text: str) -> Any:
        return await post(self, identity, thread_id, message_id, text.encode("ascii", "replace").decode())

    Chat.post = mangling  # type: ignore[method-assign]  # that is the fault


def _classes(module: Any, method: str) -> list[Any]:
    return [kind for kind in vars(module).values() if isinstance(kind, type) and method in vars(kind)]


if os.environ.get("SEEDED_FAULT"):
    FAULTS[os.environ["SEEDED_FAULT"]]()
