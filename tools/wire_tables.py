"""What the code has no table of: the results of RPC methods, and the members of events and notices.

Not here: the document (`asyncapi`). Rules: `tests/docs/test_asyncapi.py` holds a conversation with a gateway and
compares each of its frames with these schemas, in which an unknown member is an error.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from narthex.app.thread_view import ListedThread, OutcomesPage, ThreadView
from narthex.domain.runs import RUN_ERRORS, RunState
from narthex.ports.memberships import LinkedThread, ShownInvitation
from narthex.ports.threads import Hit, Thread
from tools.schemas import ANY, BOOLEAN, INTEGER, NUMBER, OBJECT, STRING, STRINGS, Schema, members

NOTHING: Final[Schema] = members({})
STATE: Final[Schema] = {"enum": [str(state) for state in RunState]}
FAILED: Final[Schema] = {
    "type": "object",
    "additionalProperties": STRING,
    "description": "Thread id → error.",
}
LIMIT: Final[Schema] = {"anyOf": [INTEGER, {"type": "null"}], "description": "null: there is no limit."}


class Result(NamedTuple):
    """An RPC method: its summary, and its result as a schema or a type."""

    summary: str
    result: Any


_BEGUN: Final = members(
    {"thread_id": STRING, "run_id": STRING, "message_id": STRING, "channel": STRING, "queued": BOOLEAN},
    {"steered": BOOLEAN},
)
_LINK: Final = members({"created_by": STRING, "created_at": NUMBER, "expires_at": NUMBER})


def _use(*names: str) -> Schema:
    return members({"limit": LIMIT, **dict.fromkeys(names, INTEGER)})


METHODS: Final[dict[str, Result]] = {
    "run.start": Result("Send a message, which starts a run of an agent.", _BEGUN),
    "run.tool_result": Result("Give the results of tools that the client ran; the agent goes on.", _BEGUN),
    "run.cancel": Result("Cancel a run.", members({"run_id": STRING, "state": STATE})),
    "run.steer": Result("Send a text to the agent of a running run.", members({"run_id": STRING, "state": STATE})),
    "run.resume": Result(
        "Answer a question of an agent.",
        members({"run_id": STRING, "answered_by": STRING, "open_questions": INTEGER}),
    ),
    "run.get": Result(
        "Read a run.",
        members(
            {
                **dict.fromkeys(
                    (
                        "run_id", "thread_id", "parent_run_id", "message_id", "agent", "user_id", "text", "digest",
                        "error", "cancel_requested_by",
                    ),
                    STRING,
                ),
                **dict.fromkeys(("count", "attempt", "queue_position"), INTEGER),
                **dict.fromkeys(("created_at", "started_at", "finished_at"), NUMBER),
                "state": STATE,
                "usage": {"type": "array", "items": OBJECT},
                "result": ANY,
            }
        ),
    ),
    "thread.create": Result("Create a thread.", Thread),
    "thread.list": Result("List one's threads, most recently updated first.",
        members({"threads": {"type": "array", "items": ListedThread}})),
    "thread.get": Result("Read a thread with its newest messages.", ThreadView),
    "thread.outcomes": Result("Read how earlier runs of a thread ended.", OutcomesPage),
    "thread.rename": Result("Rename a thread.", NOTHING),
    "thread.delete": Result("Delete a thread; owners only.", NOTHING),
    "thread.members.add": Result("Invite or add a user.", members({"state": {"enum": ["invited", "member"]}})),
    "thread.members.remove": Result("Remove a member, or withdraw an invitation.", NOTHING),
    "thread.leave": Result("Leave one thread, or many.", members({}, {"left": STRINGS, "failed": FAILED})),
    "thread.invitations": Result("List one's open invitations, newest first.",
        members({"invitations": {"type": "array", "items": ShownInvitation}})),
    "thread.invitation.accept": Result("Accept an invitation.", members({"thread_id": STRING})),
    "thread.invitation.decline": Result("Decline one invitation, or many.",
        members({}, {"declined": STRINGS, "failed": FAILED})),
    "thread.link": Result("Make a link by which users join; an earlier one ends.",
        members({"token": STRING, "expires_at": NUMBER})),
    "thread.link.get": Result("Read the thread's link.", members({"link": {"anyOf": [_LINK, {"type": "null"}]}})),
    "thread.link.revoke": Result("Revoke the thread's link.", NOTHING),
    "thread.link.preview": Result("Show the thread that a link leads to.", LinkedThread),
    "thread.join": Result("Join a thread by a link.", members({"thread_id": STRING})),
    "thread.read": Result("Move one's read marker.", NOTHING),
    "thread.search": Result("Search the messages of one's threads.",
        members({"hits": {"type": "array", "items": Hit}})),
    "user.block": Result("Block invitations and additions by a user.", NOTHING),
    "user.unblock": Result("Lift a block.", NOTHING),
    "user.blocked": Result("List the users whom one has blocked.", members({"users": STRINGS})),
    "typing": Result("Show the other members that one is typing.", NOTHING),
    "echo": Result("Get the same data back.", ANY),
    "time": Result("Read the gateway's clock.",
        members({"time": INTEGER | {"description": "Milliseconds since the epoch."}})),
    "whoami": Result("Read one's identity.",
        members(
            {
                **dict.fromkeys(
                    ("user", "tenant", "name", "plan", "class", "test_run", "issuer", "client", "node", "transport"),
                    STRING,
                ),
                "permissions": STRINGS,
                "e2e": BOOLEAN,
                "expires_at": NUMBER,
            }
        )),
    "limits": Result("Read the plan's limits and their use.",
        members(
            {
                "plan": STRING,
                **dict.fromkeys(("connections", "concurrent_runs", "threads", "additions_per_day"), _use("used")),
                "messages_per_minute": _use("left"),
                **dict.fromkeys(("thread_members", "exports", "history_days"), _use()),
            }
        )),
    "agents": Result("List the agents, the default one first.",
        members(
            {
                "agents": {
                    "type": "array",
                    "items": members({"name": STRING, "description": STRING, "suggestions": STRINGS}),
                }
            }
        )),
}  # fmt: skip

_OUTCOME: Final[Schema] = members(
    {"type": {"enum": ["success", "cancelled", "interrupt"]}},
    {
        "interrupts": {
            "type": "array",
            "items": members(
                {
                    "id": STRING,
                    "reason": STRING,
                    "message": STRING,
                    "responseSchema": OBJECT,
                    "expiresAt": STRING,
                },
                {"toolCallId": STRING, "metadata": OBJECT},
            ),
        }
    },
)
_PROOF: Final[dict[str, Schema]] = {
    "count": INTEGER | {"description": "The last `seq`."},
    "digest": STRING
    | {"description": "The hash of the run's events in normal form; missing where the log lost some."},
}

OPTIONAL: Final[dict[str, dict[str, Schema]]] = {
    "TEXT_MESSAGE_START": {"role": STRING, "userId": STRING, "name": STRING},
    "TOOL_CALL_START": {"parentMessageId": STRING},
    "TOOL_CALL_RESULT": {"role": STRING, "userId": STRING, "error": STRING},
    "REASONING_MESSAGE_START": {"role": STRING},
    "STATE_SNAPSHOT": {"snapshot": ANY},
    "RAW": {"event": ANY, "source": STRING},
    "CUSTOM": {"value": ANY},
    "RUN_STARTED": {"parentRunId": STRING, "input": OBJECT},
    "RUN_FINISHED": {"outcome": _OUTCOME, "result": ANY, **_PROOF},
    "RUN_ERROR": {"code": {"enum": list(RUN_ERRORS)}, **_PROOF},
}
"""By type of event: members that AG-UI does not require."""

STAMPS: Final[dict[str, Schema]] = {
    "threadId": STRING,
    "runId": STRING,
    "seq": INTEGER | {"description": "The event's number in its run, from 1."},
    "seq_from": INTEGER | {"description": "The first number of a merged delta."},
    "timestamp": INTEGER | {"description": "Milliseconds since the epoch."},
}
"""Members that the gateway adds to events of runs; a user's own message has `threadId` only."""


class Custom(NamedTuple):
    """A `CUSTOM` event of the gateway: when it is published, and its value."""

    when: str
    value: Schema


EVENTS: Final[dict[str, Custom]] = {
    "narthex.working": Custom("The agent has sent no event for some time, and is still running.",
        members({"silent_s": NUMBER})),
    "narthex.steering": Custom("A member steered the run; its agent has not taken the text yet.",
        members({"steerId": STRING, "text": STRING, "by": STRING}, {"messageId": STRING})),
    "narthex.steered": Custom("The agent took a member's text.",
        members({"steerId": STRING, "text": STRING, "by": STRING}, {"messageId": STRING})),
    "narthex.answered": Custom("An answer to a question of the run before.",
        members({"interruptId": STRING, "by": STRING, "payload": ANY}, {"status": STRING})),
    "narthex.restarted": Custom("The agent runs again from the start; the run's earlier events are void.",
        members({"attempt": INTEGER})),
    "narthex.model_stopped": Custom("A model stopped before it was done.", members({"reason": STRING})),
    "narthex.model_note": Custom(
        "A part of a model's answer that the gateway does not understand.", members({"not_understood": STRING})
    ),
    "narthex.typing": Custom("A member is typing; in no history.", members({"userId": STRING, "name": STRING})),
    "narthex.read": Custom("A member has read up to an offset; in no history.",
        members({"userId": STRING, "offset": INTEGER})),
}  # fmt: skip
"""In a thread's channel."""

_THREAD: Final[dict[str, Schema]] = {"threadId": STRING}
_ABOUT_USER: Final = members({**_THREAD, "userId": STRING, "by": STRING})
_RUN: Final[dict[str, Schema]] = {**_THREAD, "runId": STRING, "agent": STRING, "by": STRING}

NOTICES: Final[dict[str, Custom]] = {
    "narthex.thread_created": Custom("The user created a thread.", members({**_THREAD, "title": STRING})),
    "narthex.thread_invited": Custom("The user was invited to a thread.",
        members({**_THREAD, "title": STRING, "by": STRING, "name": STRING})),
    "narthex.invitation_closed": Custom("An invitation of the user is over.",
        members({**_THREAD, "state": {"enum": ["accepted", "declined", "withdrawn"]}})),
    "narthex.thread_added": Custom("A user became a member of a thread.", _ABOUT_USER),
    "narthex.thread_removed": Custom("A user is no longer a member of a thread.", _ABOUT_USER),
    "narthex.thread_owner": Custom("A thread has another owner.", _ABOUT_USER),
    "narthex.thread_renamed": Custom("A thread has another title.",
        members({**_THREAD, "title": STRING}, {"by": STRING})),
    "narthex.thread_deleted": Custom("A thread was deleted.", members({**_THREAD, "by": STRING})),
    "narthex.run_began": Custom("A run began.", members(_RUN, {"parentRunId": STRING})),
    "narthex.run_ended": Custom("A run ended.", members({**_RUN, "state": STATE, "error": STRING})),
    "narthex.queued": Custom("A run waits in its thread's queue.",
        members({**_THREAD, "runId": STRING, "by": STRING, "position": INTEGER})),
}  # fmt: skip
"""In a user's own channel."""

MEANINGS: Final[dict[str, str]] = {
    "active_runs": "Ids of its queued and running runs.",
    "agent": "The agent's name; without one, the default agent.",
    "answerable_by": "Users who may answer: see runs.md.",
    "author": "A user's id, or an agent's name.",
    "before": "The page begins behind this moment: `updated_at` or `created_at` of the last row before.",
    "before_id": "The id of that row; without it others with the same moment are left out.",
    "busy": "What the message does in a thread with a run: see runs.md.",
    "cancel_requested_by": "The user who cancelled the run; empty: none.",
    "channel": "`thread:<id>` or `user:<id>`.",
    "client": "The connection's id.",
    "client_message_id": "The sender's own id of the message; the same one again gives the same run.",
    "conn_info": "The user's name, where the token has one.",
    "context": "Given to the agent as AG-UI's `context`.",
    "count": "The last `seq` of the run's events.",
    "days": "How long the link is open.",
    "detail": "JSON text with further members.",
    "digest": "The hash of the run's events: see runs.md.",
    "epoch": "The life of the channel's log to which `offset` belongs.",
    "error": "A code of RUN_ERROR; empty: none.",
    "expires": "Whether the credential ends, after `ttl`.",
    "forwarded": "Given to the agent as AG-UI's `forwardedProps`.",
    "headers": "Headers that the platform lets no client set: `authorization`.",
    "info": "The client that published.",
    "interrupt_id": "The question's id.",
    "join_leave": "Not looked at: threads always have join and leave pushes.",
    "limit": "The largest number of rows.",
    "method": "The name of the RPC method.",
    "next": "Params of the page before; null: there is none.",
    "node": "The node that answers.",
    "offset": "A publication's number in its channel.",
    "parent_run_id": "The run whose question or tool call this run answers; empty: none.",
    "payload": "The answer; it fits the question's schema.",
    "ping": "Seconds between the gateway's pings.",
    "pong": "Whether each ping wants a pong.",
    "positioned": "Always on: the gateway compares its position with the log.",
    "queue_position": "The number of queued runs before it.",
    "queued": "Whether the run waits for another one of its thread.",
    "recover": "Whether to send everything after `offset` and `epoch`.",
    "recoverable": "Always on: the channel has a log.",
    "recovered": "Whether `publications` are all that was missed.",
    "resume_run_id": "The run that goes on after the answer; empty: not answered.",
    "reverse": "Newest first.",
    "session": "Of an HTTP stream or SSE: names the stream in `/emulation`.",
    "since": "Begin after this position or moment.",
    "state": "A run's state, or the agent's state (`run.start`).",
    "steered": "The text went to the running agent, and no run was started.",
    "subs": "By channel: the connection's server-side subscriptions.",
    "tags": "Nothing in narthex sets them.",
    "time": "Milliseconds since the epoch.",
    "title": "A thread's title.",
    "token": "A token of the user, or of a thread's link.",
    "tools": "Tools that the client runs, as AG-UI describes them.",
    "ttl": "Seconds until the credential ends.",
    "updated_at": "Seconds since the epoch.",
    "usage": "Tokens that each model took.",
    "result": "What the agent returned.",
    "version": "The library's version; in replies the gateway's.",
    "was_recovering": "Whether the client asked for recovery.",
    "created_at": "Seconds since the epoch.",
    "expires_at": "Seconds since the epoch.",
    "finished_at": "Seconds since the epoch; 0: not yet.",
    "started_at": "Seconds since the epoch; 0: not yet.",
    "joined_at": "Seconds since the epoch.",
    "read_offset": "Up to which offset the member has read.",
    "role": "`owner` or `member`; of a message `user`, `assistant`, `reasoning` or `tool`.",
    "attempt": "1, and one more after each restart.",
}
"""What a member is, for those whose schema does not say it."""


def explained(schema: Any) -> Any:
    """The schema with the meanings of its members."""
    if isinstance(schema, list):
        return [explained(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: explained(one) for name, one in schema.items() if name != "examples"}
    if isinstance(made.get("properties"), dict):
        made["properties"] = {
            name: {"description": MEANINGS[name], **one}
            if name in MEANINGS and isinstance(one, dict) and "$ref" not in one and "description" not in one
            else one
            for name, one in made["properties"].items()
        }
    return made | ({"examples": schema["examples"]} if "examples" in schema else {})
