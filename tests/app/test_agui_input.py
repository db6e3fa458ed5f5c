"""AG-UI's RunAgentInput at its bounds: what is new in it, what is refused, and what goes to the agent as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from narthex.app.agui.run_input import MAX_ANSWERS, MAX_RESULTS, Asked, UserMessage, opened, parse
from narthex.domain.runs import BUSY
from narthex.errors import ClientError

USER = {"id": "m1", "role": "user", "content": "hello"}
ASSISTANT = {"id": "m0", "role": "assistant", "content": "hi"}


def tool(number: int, **more: Any) -> dict[str, Any]:
    """A result of a client's tool."""
    return {"id": f"r{number}", "role": "tool", "toolCallId": f"c{number}", "content": f"{number}", **more}


def asked(*messages: dict[str, Any], connect: bool = False, **more: Any) -> Asked:
    """A request with these messages."""
    body = {"threadId": "t", "runId": "r", "messages": messages, **more}
    return parse(json.dumps(body).encode(), connect=connect)


def refused(*messages: dict[str, Any], **more: Any) -> ClientError:
    """The refusal of a request."""
    with pytest.raises(ClientError) as raised:
        asked(*messages, **more)
    assert raised.value.number == 422
    return raised.value


def test_the_last_message_of_the_user_is_the_new_one() -> None:
    """Also with other messages before it, and with an answer that a client shows behind it."""
    for messages in ((USER,), ({**USER, "id": "m"}, ASSISTANT, USER), (USER, ASSISTANT)):
        found = asked(*messages)
        assert (found.message, found.given.results) == (UserMessage("m1", "hello"), [])
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert asked({**USER, "content": parts}).message == UserMessage("m1", "one\ntwo")
    assert asked({**USER, "content": parts[0]}).message == UserMessage("m1", "one")


@pytest.mark.parametrize("message", [{**USER, "id": ""}, {**USER, "content": " \n"}, ASSISTANT])
def test_a_message_without_an_id_or_a_text_is_none(message: dict[str, Any]) -> None:
    """An older message is not sent again in its place."""
    assert refused(USER if message is not ASSISTANT else ASSISTANT, message).code == "no_user_message"
    assert refused().code == "no_user_message"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image", "url": "x"}],
        [{"type": "text", "text": "a"}, {"type": "image", "url": "x"}],
        [{"type": "text", "text": 1}],
        [{"type": "text"}],
        ["a"],
        7,
        None,
    ],
)
def test_content_that_is_not_text_is_refused(content: Any) -> None:
    """A picture must not be ignored in silence."""
    assert refused({**USER, "content": content}).code == "content_not_text"


def test_results_of_tools_that_follow_the_conversation_are_the_news() -> None:
    """In the order of the request, with their errors; what stands before them was sent earlier."""
    found = asked(USER, ASSISTANT, tool(1), tool(2, error="failed"))
    assert found.message is None
    assert [(one.message_id, one.tool_call_id, one.content, one.error) for one in found.given.results] == [
        ("r1", "c1", "1", ""),
        ("r2", "c2", "2", "failed"),
    ]
    assert asked(tool(1), USER).given.results == []
    assert [one.message_id for one in asked(tool(1), tool(2)).given.results] == ["r1", "r2"]


@pytest.mark.parametrize("lacks", [{"id": ""}, {"toolCallId": None}, {"toolCallId": ""}])
def test_a_result_names_its_message_and_its_call(lacks: dict[str, Any]) -> None:
    """Both, or the request is refused."""
    assert "needs `id` and `toolCallId`" in str(refused(tool(1, **lacks)))


def test_the_number_of_results_and_of_answers_is_bounded() -> None:
    """At the limit, and one more."""
    results = [tool(number) for number in range(MAX_RESULTS + 1)]
    assert len(asked(*results[:-1]).given.results) == MAX_RESULTS
    assert refused(*results).code == "bad_body"
    answers = [{"interruptId": f"i{number}", "status": "resolved"} for number in range(MAX_ANSWERS + 1)]
    assert len(asked(resume=answers[:-1]).resume) == MAX_ANSWERS
    assert f"{MAX_ANSWERS + 1} entries; at most {MAX_ANSWERS}" in str(refused(resume=answers))


def test_a_request_without_news_is_allowed_for_answers_and_for_reading() -> None:
    """An answer to an interrupt, a client that only connects, and the wish for it: no message is taken."""
    answer = {"interruptId": "i", "status": "cancelled", "payload": {"a": 1}}
    wish = {"narthex": {"connect": True}}
    for found in (asked(USER, resume=[answer]), asked(connect=True), asked(USER, forwardedProps=wish)):
        assert (found.message, found.given.results) == (None, [])
    (one,) = asked(resume=[answer]).resume
    assert (one.interrupt_id, one.status, one.payload) == ("i", "cancelled", {"a": 1})


def test_the_rest_goes_to_the_agent_as_it_is() -> None:
    """But for the gateway's own part of `forwardedProps`; an empty state is none."""
    sent: dict[str, Any] = {"state": {"a": [1]}, "tools": [{"name": "x"}], "context": [{"value": "y"}]}
    sent |= {"protocolVersion": "1", "parentRunId": "p"}
    sent |= {"forwardedProps": {"a": 1, "narthex": {"input": True}}}
    given = asked(USER, **sent).given
    assert (given.thread_id, given.run_id, given.state, given.tools) == (
        "t",
        "r",
        {"a": [1]},
        [{"name": "x"}],
    )
    assert (given.context, given.protocol_version, given.parent_run_id) == ([{"value": "y"}], "1", "p")
    assert (given.forwarded, given.show_input) == ({"a": 1}, True)
    bare = asked(USER, state={}, forwardedProps="no object").given
    assert (bare.state, bare.tools, bare.context, bare.forwarded) == (None, [], [], {})
    assert (bare.protocol_version, bare.parent_run_id, bare.show_input) == ("", "", False)


def test_the_wishes_and_their_defaults() -> None:
    """Nothing is wished for unless it is said; an unknown word is refused."""
    wishes = asked(USER).wishes
    assert (wishes.on_disconnect, wishes.busy, wishes.input, wishes.connect, wishes.follow) == (
        "", "", False, False, False,
    )  # fmt: skip
    for busy in BUSY:
        assert asked(USER, forwardedProps={"narthex": {"busy": busy}}).wishes.busy == busy
    for wrong in ({"busy": "later"}, {"onDisconnect": "x"}, {"input": 1}):
        assert refused(USER, forwardedProps={"narthex": wrong}).code == "bad_body"


@pytest.mark.parametrize("length", [1, 255])
@pytest.mark.parametrize("name", ["threadId", "runId"])
def test_names_have_1_to_255_printable_characters(name: str, length: int) -> None:
    """Spaces inside and other scripts are allowed; a control character, none, and one too many are not."""
    named: dict[str, Any] = {name: "\u00e9" * length}
    found = asked(USER, **named)
    assert "\u00e9" * length in (found.thread_id, found.run_id)
    for wrong in ("", "a" * 256, "a\nb", "a\u0000"):
        assert refused(USER, **{name: wrong}).code == "bad_body"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"threadId":"t","runId":"r"}', b"[" * 100_000, b'{"threadId":1}']
)
def test_what_is_no_input_is_refused_with_the_place_and_without_the_value(body: bytes) -> None:
    """Also JSON that is nested too deeply, or has a number that no program can hold."""
    with pytest.raises(ClientError) as raised:
        parse(body)
    assert raised.value.code == "bad_body"
    huge = b'{"threadId":"t","runId":"r","messages":[{"role":"user","id":"m","content":1e999}]}'
    with pytest.raises(ClientError, match="content"):
        parse(huge)


def test_an_envelope_is_told_from_a_plain_request() -> None:
    """CopilotKit's four methods; any other object is the request itself."""
    for method in ("agent/run", "agent/connect", "agent/stop", "info"):
        envelope = opened(json.dumps({"method": method, "params": {"a": 1}, "body": {"b": 2}}).encode())
        assert envelope is not None
        assert (envelope.method, envelope.params, bytes(envelope.body)) == (method, {"a": 1}, b'{"b": 2}')
    bare = opened(b'{"method":"info"}')
    assert bare is not None
    assert (bare.params, bytes(bare.body)) == ({}, b"{}")
    for body in (b'{"method":"agent/other"}', b'{"threadId":"t"}', b"[" * 100_000, b"no"):
        assert opened(body) is None


def test_an_input_to_be_shown_must_fit_an_event() -> None:
    """RUN_STARTED holds it two levels deep, and every number must be a double; a state by itself may be deeper."""
    shown = {"forwardedProps": {"narthex": {"input": True}}}
    cases: list[tuple[int, dict[str, Any], bool]] = [(126, shown, True), (127, shown, False), (127, {}, True)]
    for levels, more, fits in cases:
        state = json.loads('{"a":' * levels + "1" + "}" * levels)
        if fits:
            assert asked(USER, state=state, **more).given.state == state
        else:
            assert "126 levels" in refused(USER, state=state, **more).message
    assert "double" in refused(USER, state={"n": 10**400}, **shown).message
