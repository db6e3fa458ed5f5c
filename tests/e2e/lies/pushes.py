"""Lies in pushes: suppressed or delayed ones."""

from __future__ import annotations

import asyncio

from tests.e2e.lies.registry import lie
from tests.e2e.lies.replies import method_of
from tests.e2e.lies.server import Lie, Line, Message


class Silence(Lie):
    """Suppresses some pushes."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        return [] if self.hidden(push) else [{"push": push}]

    def hidden(self, push: Message) -> bool:
        raise NotImplementedError


class NoticeLost(Silence):
    """Suppresses one kind of notice."""

    notice = ""

    def hidden(self, push: Message) -> bool:
        return bool(push.get("pub", {}).get("data", {}).get("name") == self.notice)


@lie({"websocket_events.notices_reach_the_users_own_channel": "both notices"})
class BeginningsAreNotNoticed(NoticeLost):
    """The user's channel does not announce the start of a run."""

    notice = "narthex.run_began"


@lie({"lifecycle_events.a_thread_is_renamed_and_deleted_for_every_device": "the new name"})
class RenamesAreNotNoticed(NoticeLost):
    """The user's channel does not announce a renamed thread."""

    notice = "narthex.thread_renamed"


@lie({"coordination.two_people_share_a_thread": "the invitation"})
class AdditionsAreNotNoticed(NoticeLost):
    """The user's channel does not announce that the user was added to a thread."""

    notice = "narthex.thread_added"


@lie({"chat.typing_is_seen_and_not_kept": "the typing notice"})
class TypingIsNotSeen(Silence):
    """No device learns that another one is typing."""

    def hidden(self, push: Message) -> bool:
        return "typing" in str(push)


@lie({"lifecycle_events.joining_and_leaving_is_seen": "the leave"})
class LeavingIsNotSeen(Silence):
    """No device learns that another one left."""

    def hidden(self, push: Message) -> bool:
        return "leave" in push


@lie({"coordination.a_removed_member_loses_the_channel_at_once": "the unsubscription"})
class RemovalIsNotSeen(Silence):
    """A removed member is not unsubscribed."""

    def hidden(self, push: Message) -> bool:
        return "unsubscribe" in push


@lie({"coordination.a_removed_member_loses_the_channel_at_once": "after the removal|between us"})
class RemovalIsSaidOnly(Lie):
    """A removed member gets the notice, but continues to receive."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "connect" in command:
            self._lines.append(line)
        return reply

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) != "thread.members.remove":
            return command
        data = command["rpc"]["data"]
        for other in self._lines:
            if other is not line:
                other.tell(
                    {
                        "push": {
                            "channel": f"thread:{data['thread_id']}",
                            "unsubscribe": {"code": 2000, "reason": "r"},
                        }
                    }
                )
        line.tell({"id": command["id"], "rpc": {"data": {}}})
        return None


@lie({"websocket.pings_keep_an_idle_line": "a ping"})
class PingsNeverCome(Lie):
    """The announced pings do not come."""

    def ping(self) -> bool:
        return False


@lie(
    {
        "response_streaming.the_first_token_comes_soon": "the first delta came after",
        "performance.first_words_come_quickly": "p95 is",
    }
)
class DeltasAreSlow(Lie):
    """The first delta of a run comes after 2.2 s."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        run = push.get("pub", {}).get("data", {}).get("runId")
        if run and run not in line.state:
            line.state[run] = True
            await asyncio.sleep(2.2)
        return [{"push": push}]


@lie({"performance.a_room_of_thirty_hears_it_together": "late|did not see"})
class OneDeviceIsLate(Lie):
    """The twentieth connection gets publications 3.5 s late."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        if line.number == 20 and push.get("pub", {}).get("data", {}).get("type") == "RUN_STARTED":
            await asyncio.sleep(8)
        return [{"push": push}]


@lie({"response_streaming.text_comes_in_pieces": "all deltas arrived at once"})
class EverythingComesAtOnce(Lie):
    """Events of a run are held until its end."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        event = push.get("pub", {}).get("data", {})
        held: list[Message] = line.state.setdefault("held", [])
        if "runId" not in event or "seq" not in event:
            return [{"push": push}]
        held.append({"push": push})
        if event["type"] not in ("RUN_FINISHED", "RUN_ERROR"):
            return []
        line.state["held"] = []
        return held
