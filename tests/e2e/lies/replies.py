"""Lies in replies to commands: about the server's state, its data and its actions."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.e2e.lies.registry import lie
from tests.e2e.lies.server import Lie, Line, Message


def method_of(command: Message) -> str:
    """`rpc method`, or the command's own name."""
    if "rpc" in command:
        return str(command["rpc"].get("method"))
    return next((name for name in command if name != "id"), "")


class Reply(Lie):
    """Changes the data of one RPC method's result, or of one command's reply."""

    method = ""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) != self.method or "error" in reply:
            return reply
        data = reply["rpc"].get("data") if "rpc" in reply else reply[self.method]
        asked = command["rpc"].get("data", {}) if "rpc" in command else command[self.method]
        self.change(line, asked, data)
        return reply

    def change(self, line: Line, asked: Any, data: Any) -> None:
        raise NotImplementedError


class Taken(Lie):
    """Confirms one command without executing it."""

    method = ""
    result: ClassVar[Message] = {}

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) != self.method:
            return command
        kind = "rpc" if "rpc" in command else self.method
        line.tell({"id": command["id"], kind: {"data": self.result} if kind == "rpc" else self.result})
        return None


class Refuses(Lie):
    """Turns errors of some commands into results."""

    methods: tuple[str, ...] = ()

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" not in reply or method_of(command) not in self.methods:
            return reply
        if "rpc" in command:
            return {"id": reply["id"], "rpc": {"data": {"run_id": "r", "state": "running"}}}
        return {"id": reply["id"], method_of(command): {"epoch": "e", "offset": 0}}


@lie(
    {
        "websocket.commands_share_a_frame": "replies came as",
        "websocket.every_alias_is_the_same_door": "path",
        "failure_recovery.a_bad_frame_ends_only_its_own_line": "echo",
        "message_flow.error_handling_flow": "echo",
    }
)
class EchoIsAConstant(Lie):
    """`echo` always answers `{"n": 0}`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "echo":
            reply["rpc"]["data"] = {"n": 0}
        return reply


@lie({"websocket.commands_share_a_frame": "replies came as"})
class RepliesComeBackwards(Lie):
    """The replies to one frame come in the opposite order."""

    def batch(self, messages: list[Message]) -> list[Message]:
        return messages[::-1]


@lie({"websocket.fragments_are_put_together": "fragment|long"})
class FragmentsAreCut(Lie):
    """A fragmented command loses some of its content."""

    def fragment(self, line: Line, final: bool, payload: bytes) -> bytes:
        return payload.replace(b"xxxx", b"x")


@lie({"startup_resilience.the_first_frame_can_be_handled_at_once": "error|not ready"})
class FirstCommandsAreRefused(Lie):
    """Commands sent together with `connect` are answered `not ready`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if command.get("id") in (102, 103):
            return {"id": reply["id"], "error": {"code": 100, "message": "not ready", "temporary": True}}
        return reply


@lie({"auth.carriers_bring_the_same_person": "brought 2 people"})
class TicketBringsAnother(Reply):
    """The connection of a ticket belongs to another user."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        if "ticket=" in line.request.target:
            data["user"] = "another"


@lie({"auth.a_test_identity_is_confined": "tenant default"})
class TestIdentitiesAreInTheDefaultTenant(Reply):
    """A test identity is in the users' tenant."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["tenant"] = "default"


@lie({"auth.a_test_identity_is_confined": "admin"})
class TestIdentitiesAdminister(Reply):
    """A test identity has the permission `admin`."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["permissions"] = [*data["permissions"], "admin"]


@lie({"auth.a_test_identity_is_confined": "ttl 86400"})
class TestIdentitiesLiveADay(Reply):
    """A test identity's connection is valid for a day."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["ttl"] = 86_400


@lie({"coordination.the_key_itself_is_a_way_in": "test_run"})
class KeyLosesItsTestRun(Reply):
    """An identity by key has a test run of the server's choice."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        if line.request.header("x-e2e-bypass-key"):
            data["test_run"] = "random-1"


@lie({"websocket_events.connect_reply_says_who_and_how_long": "subs"})
class ConnectWithoutTheOwnChannel(Reply):
    """The connect reply lacks the user's own channel."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["subs"] = {}


@lie({"websocket_events.two_sockets_have_two_client_ids": "client"})
class OneClientIdForAll(Reply):
    """Every connection has the same client id."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["client"] = "c-1"


@lie({"auth.a_refresh_keeps_the_line": "ttl"})
class RefreshSaysAConstant(Taken):
    """A refresh is answered with a constant and not executed."""

    method = "refresh"
    result: ClassVar[Message] = {"client": "c", "version": "1", "expires": True, "ttl": 900}


@lie({"auth.a_bad_refresh_ends_it": "a forged refresh token was accepted"})
class AnyRefreshIsTaken(Lie):
    """A forged refresh is answered like a valid one."""

    def command(self, line: Line, command: Message) -> Message | None:
        if "refresh" in command and command["refresh"]["token"].count(".e30.") == 1:
            line.tell({"id": command["id"], "refresh": {"expires": True, "ttl": 900}})
            return None
        return command


@lie({"chat.a_thread_from_its_making_to_its_end": "newest thread is not listed first"})
class ThreadsAreListedBackwards(Reply):
    """The oldest thread is listed first."""

    method = "thread.list"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["threads"].reverse()
        data["threads"].insert(0, {"thread_id": "t-0", "title": "old"})


@lie({"chat.a_thread_from_its_making_to_its_end": "two"})
class RenamesAreSaidOnly(Taken):
    """A rename is acknowledged but not executed."""

    method = "thread.rename"


@lie(
    {
        "chat.a_thread_from_its_making_to_its_end": "a deleted thread was read",
        "lifecycle_events.a_thread_is_renamed_and_deleted_for_every_device": "the deletion",
    }
)
class DeletionsAreSaidOnly(Taken):
    """A deletion is acknowledged but not executed."""

    method = "thread.delete"


@lie({"chat.a_conversation_keeps_its_order": "assistant"})
class MessagesComeBackwards(Reply):
    """A thread's messages are in the opposite order."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["messages"].reverse()


@lie(
    {
        "message_flow.message_flow": r"said\[1\]",
        "response_streaming.deltas_make_the_stored_text": "messages",
        "agent_pipeline.a_finished_run_is_one_read": "content",
        "critical_path.come_back_and_find_it": "content",
    }
)
class StoredAnswersDiffer(Reply):
    """A stored answer differs from the streamed one."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        for message in data["messages"]:
            if message["role"] == "assistant":
                message["content"] += "!"


@lie({"agent_pipeline.a_finished_run_is_one_read": "runs"})
class EndedRunsStayListed(Reply):
    """An ended run is listed as in progress."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["runs"] = [{"run_id": "r", "state": "running"}]


@lie({"response_streaming.a_late_device_reads_the_running_answer_from_its_start": "seq|offset"})
class ThreadsStandTooFar(Reply):
    """A thread's position is past events that its messages lack."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["offset"] += 6


@lie({"chat.what_was_said_is_found": r"\[\]"})
class SearchFindsNothing(Reply):
    """A search has no hits."""

    method = "thread.search"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["hits"] = []


@lie({"critical_path.come_back_and_find_it": "thread_id"})
class ListsForget(Reply):
    """A list of threads is empty."""

    method = "thread.list"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["threads"] = [{"thread_id": "t-0", "title": "old"}]


@lie({"chat.typing_is_seen_and_not_kept": "a typing notice has an offset"})
class TypingTakesAnOffset(Reply):
    """The thread's position advances after a typing notice."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["offset"] += 1


@lie({"message_flow.the_same_message_twice_is_one_run": "five sends made"})
class RepeatsAreOtherRuns(Reply):
    """A repeated message gets a different run id."""

    method = "run.start"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        line.state["n"] = line.state.get("n", 0) + 1
        data["run_id"] += str(line.state["n"])


@lie({"message_flow.messages_keep_their_order": "started == runs"})
class RunIdsAreExchanged(Reply):
    """The second run of a connection has the id of the first."""

    method = "run.start"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        line.state.setdefault("runs", []).append(data["run_id"])
        if len(line.state["runs"]) == 2:
            data["run_id"] = line.state["runs"][0]


@lie(
    {
        "message_flow.a_message_that_is_too_large_is_refused_by_name": "40 KB were accepted",
    }
)
class LargeTextIsCut(Lie):
    """A text over the limit is truncated silently."""

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) == "run.start" and len(str(command["rpc"]["data"].get("text", ""))) > 32_000:
            data = command["rpc"]["data"]
            return command | {"rpc": {"method": "run.start", "data": data | {"text": data["text"][:100]}}}
        return command


@lie({"agent_pipeline.pipeline_error_handling": "unknown agent was accepted"})
class UnknownAgentsAreTheDefault(Lie):
    """A run of an unknown agent goes to another agent."""

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) == "run.start":
            asked = {name: value for name, value in command["rpc"]["data"].items() if name != "agent"}
            return command | {"rpc": {"method": "run.start", "data": asked}}
        return command


@lie({"message_flow.error_handling_flow": "no.such.method|100"})
class EveryErrorIs100(Lie):
    """Every error is an internal one."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" in reply:
            reply["error"] = {"code": 100, "message": "internal server error"}
        return reply


@lie(
    {
        "coordination.foreign_tenants_are_as_absent_as_nothing": "permission denied",
        "smoke.another_tenant_is_out_of_reach": "permission denied",
    }
)
class EverySubscriptionIsRefused(Lie):
    """Every subscription is refused with `permission denied`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "subscribe" in command:
            return {"id": reply["id"], "error": {"code": 103, "message": "permission denied"}}
        return reply


@lie({"coordination.foreign_tenants_are_as_absent_as_nothing": "differ"})
class ForeignChannelsAnswerDifferently(Lie):
    """A channel of another tenant is `permission denied`, one that does not exist is `unknown`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "subscribe" in command and "error" in reply:
            known = command["subscribe"]["channel"] in ("thread:default", "user:admin")
            reply["error"] = {"code": 103 if known else 102, "message": "no"}
        return reply


@lie(
    {
        "smoke.another_tenant_is_out_of_reach": "of others",
        "coordination.foreign_tenants_are_as_absent_as_nothing": "subscribed to",
    }
)
class AnyChannelIsOpen(Refuses):
    """A subscription to another user's channel succeeds."""

    methods = ("subscribe",)


@lie({"smoke.another_tenant_is_out_of_reach": "read another user's thread"})
class ThreadsOfOthersAreRead(Refuses):
    """`thread.get` of an unknown thread gives one."""

    methods = ("thread.get",)


@lie({"security.a_client_cannot_write_into_a_channel": "a client published into"})
class PublishIsTaken(Refuses):
    """A client's `publish` is answered with success."""

    methods = ("publish",)


@lie({"agent_orchestration.an_ended_run_cannot_be_steered": "an ended run was steered"})
class EndedRunsAreSteered(Refuses):
    """Steering an ended run is answered with success."""

    methods = ("run.steer",)


@lie({"resilience.a_flood_of_commands_is_bounded": "closed with 3000"})
class FloodsMeetNoLimit(Lie):
    """Commands beyond the rate are answered like any other."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" in reply and method_of(command) == "time":
            return {"id": reply["id"], "rpc": {"data": {}}}
        return reply

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 3000, "constant"


@lie(
    {
        "agent_orchestration.cancel_stops_a_run": "the end of run|cancelled",
        "agent_orchestration.cancel_from_another_device": "the end of run|cancelled",
    }
)
class CancelIsSaidOnly(Taken):
    """A cancel is acknowledged but not executed."""

    method = "run.cancel"
    result: ClassVar[Message] = {"state": "running"}


@lie({"agent_orchestration.steering_reaches_a_running_agent": "did not receive"})
class SteeringIsSaidOnly(Taken):
    """Steering is acknowledged but not executed."""

    method = "run.steer"
    result: ClassVar[Message] = {"state": "running"}


@lie({"agent_orchestration.an_approval_is_answered_once": "first == second"})
class SecondAnswersAreOtherRuns(Lie):
    """The second answer to a question gets another run id."""

    def __init__(self) -> None:
        self._resumed = 0

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "run.resume":
            self._resumed += 1
            if self._resumed > 1:
                reply["rpc"]["data"]["run_id"] += "-2"
        return reply


@lie({"agent_orchestration.a_busy_thread_queues": "queued"})
class QueuedRunsAreRunning(Reply):
    """A queued run is shown as running."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["state"] = "running" if data["state"] == "queued" else data["state"]


@lie(
    {
        "lifecycle_events.states_follow_the_table": "finished",
        "agent_pipeline.pipeline_execution": "finished",
    }
)
class RunsAreAlwaysRunning(Reply):
    """`run.get` reports `running` for every run."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["state"] = "running"


@lie({"agent_pipeline.pipeline_execution": "digest"})
class RunsHaveAConstantDigest(Reply):
    """`run.get` shows a digest that is not the run's."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["digest"] = "sha256:" + "0" * 64


@lie({"response_streaming.deltas_make_the_stored_text": "text"})
class RunsHaveAnotherText(Reply):
    """`run.get` shows a different text than the streamed one."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["text"] = (data["text"] or "")[:-1]


@lie({"lifecycle_events.joining_and_leaving_is_seen": "both devices"})
class PresenceIsOfOne(Reply):
    """Presence lists only one connection."""

    method = "presence"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["presence"] = dict(list(data["presence"].items())[:1])


@lie({"websocket_events.each_event_is_published_once": "expected seq"})
class HistoryHoldsEventsTwice(Reply):
    """A channel's history holds one event twice."""

    method = "history"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["publications"].insert(4, data["publications"][4])


@lie({"performance.echoes_come_back_quickly": "p95 is"})
class EchoesAreSlow(Lie):
    """An echo takes 0.4 s."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "echo":
            await asyncio.sleep(0.4)
        return reply
