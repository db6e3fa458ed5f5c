/**
 * What the gateway's RPC methods take and give (docs/protocol.md), as types. Moments are seconds since the epoch.
 */

import type { Json, LinkedThread, OpenLink, ThreadLink } from "@narthex/client";

export interface Thread {
  thread_id: string;
  title: string;
  created_by: string;
  created_at: number;
  updated_at: number;
  /** In `thread.list`: ids of its queued and running runs. */
  active_runs?: string[];
}

export interface Member {
  user_id: string;
  role: "owner" | "member";
  joined_at: number;
  read_offset?: number;
}

/** A finished message: a person's (`role: "user"`), or what a run's deltas were compacted to. */
export interface StoredMessage {
  message_id: string;
  role: string;
  author: string;
  content: string;
  created_at: number;
  run_id?: string;
  /** JSON text: for tools `{toolCallName, args, answered}`, for people's messages `{name}`. */
  detail?: string;
  offset?: number;
}

/** A queued or running run, as `thread.get` lists it. */
export interface ActiveRun {
  run_id: string;
  state: string;
  agent: string;
  user_id: string;
  message_id: string;
  parent_run_id?: string;
  started_at?: number;
}

/** An approval that waits for an answer. `schema` is JSON text. */
export interface OpenInterrupt {
  interrupt_id: string;
  run_id: string;
  text: string;
  schema: string;
  expires_at: number;
  /** `asker`, `owner`, `member`, `permission:<name>`; empty: the asker and the thread's owners. */
  answerable_by?: string;
}

/** An approval that a run ended with; `answered_by` is empty while it is open, and after it expired. */
export interface Question extends OpenInterrupt {
  answered_by: string;
  resume_run_id: string;
}

/** How a run ended. The gateway keeps it as long as the thread. */
export interface EndedRun {
  run_id: string;
  state: "finished" | "interrupted" | "cancelled" | "failed";
  agent: string;
  user_id: string;
  message_id: string;
  parent_run_id: string;
  created_at: number;
  /** 0: it was stopped while it waited its turn. */
  started_at: number;
  finished_at: number;
  attempt: number;
  cancel_requested_by: string;
  error: string;
  error_message: string;
  questions: Question[];
}

export interface Invited {
  user_id: string;
  invited_by: string;
  created_at: number;
}

export interface OutcomesPlace {
  since: number;
  before: number | null;
  before_id: string;
}

export interface ThreadView {
  thread: Thread;
  role: "owner" | "member";
  messages: StoredMessage[];
  members: Member[];
  invited?: Invited[];
  runs: ActiveRun[];
  outcomes?: EndedRun[];
  /** Params of `thread.outcomes` for those that were too many for one answer. */
  outcomes_next?: OutcomesPlace | null;
  interrupts: OpenInterrupt[];
  channel: string;
  offset: number;
  epoch: string;
}

/** An open invitation to this person. */
export interface Invitation {
  thread_id: string;
  title: string;
  invited_by: string;
  inviter_name: string;
  created_at: number;
}

export interface Hit {
  thread_id: string;
  title: string;
  message_id: string;
  snippet: string;
  created_at: number;
}

export interface Started {
  thread_id: string;
  run_id: string;
  message_id: string;
  channel: string;
  queued: boolean;
  position?: number;
}

/** An agent that can be asked; the first one is the default. */
export interface AgentInfo {
  name: string;
  description: string;
  /** First messages to offer. */
  suggestions: string[];
}

export interface Whoami {
  user: string;
  tenant: string;
  name: string;
  plan: string;
  permissions: string[];
  class: string;
  e2e: boolean;
}

/** Method → [params, result]. */
export interface Methods {
  whoami: [Record<string, never>, Whoami];
  agents: [Record<string, never>, { agents: AgentInfo[] }];
  "thread.list": [{ before?: number; before_id?: string; limit?: number }, { threads: Thread[] }];
  "thread.outcomes": [{ thread_id: string } & OutcomesPlace, { outcomes: EndedRun[]; next: OutcomesPlace | null }];
  "thread.get": [{ thread_id: string; before?: number; before_id?: string; limit?: number }, ThreadView];
  "thread.rename": [{ thread_id: string; title: string }, object];
  "thread.delete": [{ thread_id: string }, object];
  "thread.members.add": [{ thread_id: string; user_id: string }, { state?: "invited" | "member" }];
  "thread.members.remove": [{ thread_id: string; user_id: string }, object];
  "thread.leave": [{ thread_ids: string[] }, { left: string[]; failed: { [threadId: string]: string } }];
  "thread.invitations": [{ limit?: number }, { invitations: Invitation[] }];
  "thread.invitation.accept": [{ thread_id: string }, { thread_id: string }];
  "thread.invitation.decline": [{ thread_id: string }, object];
  "thread.link": [{ thread_id: string; days?: number }, ThreadLink];
  "thread.link.get": [{ thread_id: string }, { link: OpenLink | null }];
  "thread.link.revoke": [{ thread_id: string }, object];
  "thread.link.preview": [{ token: string }, LinkedThread];
  "thread.join": [{ token: string }, { thread_id: string }];
  "user.block": [{ user_id: string }, object];
  "user.unblock": [{ user_id: string }, object];
  "user.blocked": [Record<string, never>, { users: string[] }];
  "thread.read": [{ thread_id: string; offset: number }, object];
  "thread.search": [{ text: string; limit?: number }, { hits: Hit[] }];
  typing: [{ thread_id: string }, object];
  "run.start": [{ thread_id?: string; text: string; client_message_id: string; agent?: string }, Started];
  "run.cancel": [{ run_id: string }, { state: string }];
  "run.steer": [{ run_id: string; text: string }, object];
  "run.resume": [{ run_id: string; interrupt_id: string; payload: Json }, { run_id: string }];
  "run.get": [{ run_id: string }, RunRecord];
}

/** A run as the gateway keeps it. */
export interface RunRecord {
  run_id: string;
  agent: string;
  state: string;
  text: string;
  count: number;
  digest: string;
  error: string;
  queue_position: number;
  cancel_requested_by: string;
}

/** What `/ws/config` says, as far as the page uses it. */
export interface Config {
  environment?: string;
  version?: string;
  /** Whether `/auth/login` is there; otherwise another provider signs people in. */
  embedded_provider?: boolean;
  /** Where the sign-in with another OIDC provider begins, where there is one. */
  oidc_start?: string | null;
  guests?: boolean;
  limits?: Record<string, unknown>;
}
