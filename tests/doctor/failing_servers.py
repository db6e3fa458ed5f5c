"""Failing servers for the doctor: scripted byte for byte.

Not here: the tests (`test_signatures`). Each registers itself in `CASES` with the code that must be named.
"""

from __future__ import annotations

import asyncio

from tests.doctor.clinic import TIMEOUT_S
from tests.doctor.failing_answers import CASES, TOKEN, case
from tests.doctor.scripted import Asked, Wire
from tests.timing import within


@case("eof_before_answer")
async def closes_at_once(asked: Asked, wire: Wire) -> None:
    wire.writer.close()


@case("reset_before_answer")
async def resets(asked: Asked, wire: Wire) -> None:
    wire.reset()


@case("eof_before_answer")
async def dies_at_the_handshake_only(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        await wire.say(200, "OK", "hello")


@case("black_hole")
async def never_answers(asked: Asked, wire: Wire) -> None:
    await wire.reader.read()


@case("upgrade_unanswered")
async def answers_only_plain_requests(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        await wire.say(200, "OK", "hello")
        return
    await wire.reader.read()


@case("slow_answer")
async def one_byte_at_a_time(asked: Asked, wire: Wire) -> None:
    for byte in b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n":
        await wire.raw(bytes([byte]))
        await asyncio.sleep(TIMEOUT_S / 5)


@case("cut_mid_answer")
async def dies_within_the_head(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgr")


@case("not_http")
async def speaks_ssh(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")


@case("not_http")
async def garbage(asked: Asked, wire: Wire) -> None:
    await wire.raw(bytes(range(200, 256)))


@case("speaks_h2")
async def speaks_http2(asked: Asked, wire: Wire) -> None:
    await wire.raw(bytes.fromhex("000012040000000000000300000080000400010000000500ffffff"))


@case("cut_after_200")
async def ok_and_cut(asked: Asked, wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhel")


@case("daphne_denial")
async def a_second_and_no_headers(asked: Asked, wire: Wire) -> None:
    await asyncio.sleep(1.0)
    await wire.raw(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")


CASES[-1][3]["timeout_s"] = within(2)


@case("handler_returned")
async def two_answers(asked: Asked, wire: Wire) -> None:
    await wire.say(500, "Internal Server Error", "Internal Server Error")
    await asyncio.sleep(0.05)
    await wire.accept(asked)


@case("handler_hangs")
async def gateway_timeout(asked: Asked, wire: Wire) -> None:
    await asyncio.sleep(TIMEOUT_S / 2)
    await wire.say(504, "Gateway Time-out", "<html><center>nginx</center></html>", Server="nginx")


@case("closed_before_accept")
async def refuses_this_path_only(asked: Asked, wire: Wire) -> None:
    await wire.say(403 if asked.path == "/ws" else 404, "Forbidden")


@case("bad_accept")
async def replayed_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, accept="s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")


@case("bad_accept")
async def no_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, without="Sec-WebSocket-Accept")


@case("upgrade_header_missing")
async def no_upgrade_header(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, without="Upgrade")


@case("extension_not_offered")
async def deflate_unasked(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, Sec_WebSocket_Extensions="permessage-deflate")


@case("subprotocol_not_offered")
async def subprotocol_unasked(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked, Sec_WebSocket_Protocol="mqtt")


@case("closed_after_accept")
async def closes_4401(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.close_frame(4401, "who are you?")


@case("closed_after_accept")
async def closes_1012(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.close_frame(1012)


@case("cut_after_accept")
async def accepts_and_dies(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)


@case("bad_frames")
async def garbage_after_accept(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.raw(b"\xff\xff\xff\xff")


@case("bad_frames")
async def masked_frames(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.raw(b"\x81\x85abcdhello")


@case("no_pong")
async def swallows(asked: Asked, wire: Wire) -> None:
    await wire.accept(asked)
    await wire.talk(pong=False)


async def healthy(asked: Asked, wire: Wire) -> None:
    """A good server."""
    if asked.upgrade:
        await wire.accept(asked)
        await wire.talk()
    else:
        await wire.say(426, "Upgrade Required")


@case("origin_refused")
async def no_pages(asked: Asked, wire: Wire) -> None:
    await (wire.say(403, "Forbidden") if "origin" in asked.headers else healthy(asked, wire))


@case("origin_refused")
async def no_pages_and_a_token_is_needed(asked: Asked, wire: Wire) -> None:
    await wire.say(403 if "origin" in asked.headers else 401, "No", WWW_Authenticate="Bearer")


@case("flapping")
async def one_instance_is_broken_and_a_token_is_needed(asked: Asked, wire: Wire) -> None:
    await wire.say(500 if asked.number % 2 else 401, "No", "oops", WWW_Authenticate="Bearer")


@case("large_head_silence")
async def lost_431(asked: Asked, wire: Wire) -> None:
    await (wire.reader.read() if asked.size > 8192 else healthy(asked, wire))


@case("flapping")
async def every_second_one(asked: Asked, wire: Wire) -> None:
    await (wire.say(500, "X", "oops") if asked.upgrade and asked.number % 2 else healthy(asked, wire))


@case("flapping")
async def some_are_reset(asked: Asked, wire: Wire) -> None:
    if asked.upgrade and asked.number % 3 == 0:
        wire.reset()
    else:
        await healthy(asked, wire)


@case("rate_limited_by_proxy")
async def limit_req(asked: Asked, wire: Wire) -> None:
    if asked.upgrade and asked.number > 2:
        await wire.say(
            503, "Service Temporarily Unavailable", "<html><center>nginx</center></html>", Server="nginx"
        )
    else:
        await healthy(asked, wire)


@case("bad_token_admitted", **TOKEN)
async def any_token_will_do(asked: Asked, wire: Wire) -> None:
    if "authorization" in asked.headers:
        await healthy(asked, wire)
    else:
        await wire.say(401, "Unauthorized", WWW_Authenticate="Bearer")


@case("underscore_header", headers=(("auth_token", "sesame"),))
async def header_dropped(asked: Asked, wire: Wire) -> None:
    asked.headers.pop("auth_token", None)
    await (
        healthy(asked, wire) if "auth-token" in asked.headers else wire.say(401, "Unauthorized", "no token")
    )


@case("idle_limit", hold_s=within(2.0))
async def idle_cut(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    while True:
        async with asyncio.timeout(within(0.6)):
            await _one_frame(wire)


@case("life_limit", hold_s=within(2.0))
async def short_life(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    async with asyncio.timeout(within(0.9)):
        await wire.talk()


@case("closed_while_held", hold_s=within(2.0))
async def restart_while_held(asked: Asked, wire: Wire) -> None:
    if not asked.upgrade:
        return
    await wire.accept(asked)
    try:
        async with asyncio.timeout(within(0.7)):
            await wire.talk()
    except TimeoutError:
        await wire.close_frame(1012, "restart")


async def _one_frame(wire: Wire) -> None:
    first, second = await wire.reader.readexactly(2)
    mask = await wire.reader.readexactly(4)
    masked = await wire.reader.readexactly(second & 0x7F)
    payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(masked))
    if first & 0x0F == 9:
        await wire.frame(10, payload)
    if first & 0x0F == 8:
        await wire.frame(8, payload)
        raise ConnectionError
