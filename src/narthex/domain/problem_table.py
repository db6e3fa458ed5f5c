"""The codes of errors of commands and routes, each with a title and a remedy, for `/problems/<code>`.

Not here: the refusals of admission (`refusals`), the sentence of the one case, which its error has. Rules: every code
that a client can be answered is a row here or in `refusals.TABLE` (a test walks the sources).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.domain import refusals


class ProblemRow(NamedTuple):
    """One kind of error. `http` is the status of its HTTP answer, or the code of a command's error."""

    http: int | None
    title: str
    remedy: str


ERRORS: Final[dict[str, ProblemRow]] = {
    "account_blocked": ProblemRow(403, "The account is blocked", "Ask the operator."),
    "additions_limit": ProblemRow(429, "The plan allows no further additions today",
        "Try again on the next UTC day, or upgrade the plan."),
    "agent_not_found": ProblemRow(404, "There is no agent of this name",
        "Use a name that the answer lists; without a name the first agent is used."),
    "agents_unavailable": ProblemRow(503, "An agent does not respond", "Retry after the seconds in Retry-After."),
    "answer_not_allowed": ProblemRow(403, "The question is for other members",
        "Wait for one of them to answer."),
    "bad_body": ProblemRow(422, "The body is not what the route takes",
        "Send what /api/v1/openapi.json describes, or for /agui AG-UI's RunAgentInput."),
    "bad_last_event_id": ProblemRow(400, "Last-Event-ID is not an id of this stream",
        "Send the last `id` unchanged, or omit the header."),
    "bad_params": ProblemRow(400, "A parameter is missing or wrong",
        "The answer names it; docs/protocol.md lists every command's parameters."),
    "blocked": ProblemRow(403, "One of the two users has blocked the other", "Unblock the user, or send a link."),
    "blocks_limit": ProblemRow(429, "The user blocks as many users as are allowed", "Unblock one first."),
    "body_too_large": ProblemRow(413, "The body is too large", "Send less; the gateway stores earlier messages."),
    "broker_damaged": ProblemRow(503, "The broker's data is damaged", "Have the operator restore it."),
    "broker_unavailable": ProblemRow(503, "The broker does not respond",
        "Retry after the seconds in Retry-After; operators see the cause in /ws/health."),
    "client_message_id_used": ProblemRow(409, "The message's id belongs to a message of another thread",
        "Use a new id for every message; repeat one only to send the same message again."),
    "client_not_allowed": ProblemRow(401, "The caller may not do this",
        "Send the admin key as a Bearer token or as the Basic password."),
    "content_not_text": ProblemRow(422, "The message has parts that are not text", "Send text only."),
    "exports_limit": ProblemRow(429, "The plan allows no more exports at once", "Wait for one to finish."),
    "incident_not_found": ProblemRow(404, "There is no incident with this id", "`narthex incident list` lists them."),
    "incident_resolved": ProblemRow(409, "The incident is resolved, or the maintenance is over", "Open another."),
    "input_too_large": ProblemRow(413, "State, tools, context and forwardedProps are too large together",
        "Send less with each run."),
    "interrupt_expired": ProblemRow(410, "The agent's question has expired", "Start a new run."),
    "interrupt_not_found": ProblemRow(404, "No such question is open", "`thread.get` lists the open ones."),
    "interrupts_open": ProblemRow(409, "The run asked more questions than were answered",
        "Answer all interrupts of the run in one `resume`; the answers given so far count."),
    "invitation_not_found": ProblemRow(404, "The user has no open invitation to this thread",
        "`thread.invitations` lists them; ask to be invited again."),
    "invitations_limit": ProblemRow(429, "The user has as many open invitations as are allowed",
        "Ask the user to answer some of them."),
    "last_member": ProblemRow(409, "The last member cannot leave the thread",
        "Delete the thread, or add another member first."),
    "link_not_found": ProblemRow(404, "The link expired, was revoked, or never existed",
        "Ask the thread's owner for a new one."),
    "login_failed": ProblemRow(401, "Sign-in failed", "Check the e-mail and the password."),
    "member_not_found": ProblemRow(404, "The user is not a member of the thread", "`thread.get` lists the members."),
    "members_limit": ProblemRow(429, "The thread is full", "Have an owner remove a member, or upgrade the plan."),
    "message_id_used": ProblemRow(409, "Another message of the thread has this id",
        "Give every message an id of its own, for example a random UUID."),
    "method_not_allowed": ProblemRow(405, "The method is not allowed here", "Use one that the Allow header names."),
    "no_provider": ProblemRow(409, "The embedded provider is off", "Block the user at your issuer."),
    "no_user_message": ProblemRow(422, "No user message in the request has an id and a text",
        "Send one, or answer a question with `resume`."),
    "not_a_member": ProblemRow(409, "There is no such thread, or the user is no member of it",
        "Have an owner add the user first."),
    "not_owner": ProblemRow(403, "Only an owner of the thread may do this", "Ask an owner."),
    "payload_invalid": ProblemRow(422, "The answer does not fit the question's schema", "Follow the schema."),
    "payload_too_large": ProblemRow(413, "The payload is too large", "Send less."),
    "payloads_not_allowed": ProblemRow(403, "This gateway shows no payloads in traces",
        "Trace with masked payloads, or set NARTHEX_TRACE_PAYLOADS."),
    "position_lost": ProblemRow(410, "The stream cannot resume from that event without a gap",
        "Read the thread (GET /api/v1/threads/{thread_id}), or follow it over the WebSocket."),
    "queue_full": ProblemRow(429, "The thread has as many waiting runs as are allowed",
        "Wait for a run to finish, or cancel one."),
    "refresh_invalid": ProblemRow(401, "The refresh token is not valid", "Sign in again."),
    "run_active": ProblemRow(409, "The run has not ended yet", "Send the results after RUN_FINISHED."),
    "run_ended": ProblemRow(409, "The run has ended", "Start a new run."),
    "run_not_found": ProblemRow(404, "No such run is visible to the user", "`thread.get` lists the runs."),
    "run_queued": ProblemRow(409, "The run has not begun", "Wait until it runs."),
    "sign_in_required": ProblemRow(403, "Guests cannot join threads by a link", "Sign in, then open it again."),
    "steer_full": ProblemRow(429, "The agent cannot be steered now", "Try again, or cancel the run."),
    "store_damaged": ProblemRow(503, "The store's data is damaged", "Have the operator restore it."),
    "store_unavailable": ProblemRow(503, "The store does not respond",
        "Retry after the seconds in Retry-After; operators see the cause in /ws/health."),
    "text_too_large": ProblemRow(413, "The text is too large", "Send it in parts."),
    "thread_busy": ProblemRow(409, "The thread has a run in progress", "Wait for it, or cancel it first."),
    "thread_not_found": ProblemRow(404, "No such thread is visible to the user", "`thread.list` lists them."),
    "threads_limit": ProblemRow(429, "The plan allows the user no more threads",
        "Delete threads, or upgrade the plan."),
    "too_many_incidents": ProblemRow(409, "As many incidents as are allowed are open or to come",
        "Resolve some first."),
    "too_many_updates": ProblemRow(409, "The incident has as many updates as are allowed", "Open another."),
    "tool_call_answered": ProblemRow(409, "Another result of the tool's call came first",
        "Follow the thread: it goes on with that result."),
    "tool_results_not_taken": ProblemRow(422, "The thread has no such call of a tool",
        "Send results of calls that the agent made, or a user message."),
    "too_many_traces": ProblemRow(409, "As many traces run as are allowed", "End one of them first."),
    "trace_not_found": ProblemRow(404, "No trace has this id", "Start one."),
    "unknown_channel": ProblemRow(422, "No such kind of channel exists", "Channels are thread:<id> and user:<id>."),
    "unknown_node": ProblemRow(422, "The process does not know the node that is named", "Leave `node` out."),
    "user_not_found": ProblemRow(404, "No user has this id", "Give the user's id, as in the token's `sub`."),
}  # fmt: skip


def problem_row(code: str) -> ProblemRow | None:
    """The row of any code that a client can be answered; None for no code of narthex's."""
    refusal = refusals.TABLE.get(code)
    return ProblemRow(refusal.http, refusal.title, refusal.remedy) if refusal else ERRORS.get(code)


def problem_codes() -> list[str]:
    """Every code, in order."""
    return sorted({*refusals.TABLE, *ERRORS})
