/**
 * Who is in a thread: inviting, answering invitations, links, leaving, blocking. A method is one RPC of docs/protocol.md; it
 * fails as the SDK's `rpc` fails, with `{code, message}`.
 */

/** What this needs of a `Centrifuge` client. */
export interface RpcClient {
  rpc(method: string, data: unknown): Promise<{ data: unknown }>;
}

/** An open invitation. `created_at` is seconds since the epoch. */
export interface Invitation {
  thread_id: string;
  title: string;
  invited_by: string;
  inviter_name: string;
  created_at: number;
}

/** A link to a thread. `token` is shown this once; `expires_at` is seconds since the epoch. */
export interface ThreadLink {
  token: string;
  expires_at: number;
}

/** A thread's open link, without its token. Moments are seconds since the epoch. */
export interface OpenLink {
  created_by: string;
  created_at: number;
  expires_at: number;
}

/** A thread as a user with its link's token is shown it. `role` and `thread_id` are empty unless you are a member. */
export interface LinkedThread {
  thread_id: string;
  title: string;
  created_by: string;
  creator_name: string;
  members: number;
  expires_at: number;
  role: "" | "owner" | "member";
}

/** What became of a call for many threads: `failed` is thread id → error name. */
export interface Many {
  done: string[];
  failed: Record<string, string>;
}

/** `new Threads(centrifuge)`. */
export class Threads {
  readonly #client: RpcClient;

  constructor(client: RpcClient) {
    this.#client = client;
  }

  /** Invite a user: `invited`, or `member` where members are added at once or they are one already. */
  async addMember(threadId: string, userId: string): Promise<"invited" | "member"> {
    const answer = await this.#call<{ state?: "invited" | "member" }>("thread.members.add", {
      thread_id: threadId,
      user_id: userId,
    });
    return answer.state ?? "member"; // a gateway of the version before says nothing
  }

  /** Remove a member (owners), or take an invitation back (owners, and the inviter). */
  async removeMember(threadId: string, userId: string): Promise<void> {
    await this.#call("thread.members.remove", { thread_id: threadId, user_id: userId });
  }

  /** The newest `limit` (1-200) of your open invitations. */
  async invitations(limit = 200): Promise<Invitation[]> {
    return (await this.#call<{ invitations: Invitation[] }>("thread.invitations", { limit })).invitations;
  }

  /** Become a member of a thread that you were invited to. Harmless when repeated. */
  async accept(threadId: string): Promise<void> {
    await this.#call("thread.invitation.accept", { thread_id: threadId });
  }

  /** Decline invitations, up to 200 at once. The inviter is not told. */
  async decline(threadIds: readonly string[]): Promise<Many> {
    const answer = await this.#call<{ declined: string[]; failed: Record<string, string> }>(
      "thread.invitation.decline",
      { thread_ids: threadIds },
    );
    return { done: answer.declined, failed: answer.failed };
  }

  /** Leave threads, up to 200 at once. */
  async leave(threadIds: readonly string[]): Promise<Many> {
    const answer = await this.#call<{ left: string[]; failed: Record<string, string> }>("thread.leave", {
      thread_ids: threadIds,
    });
    return { done: answer.left, failed: answer.failed };
  }

  /** Open a link (1-30 days) by which users of the tenant join the thread; an earlier one is over. For owners. */
  makeLink(threadId: string, days = 7): Promise<ThreadLink> {
    return this.#call<ThreadLink>("thread.link", { thread_id: threadId, days });
  }

  /** The thread's open link. For owners. */
  async link(threadId: string): Promise<OpenLink | null> {
    return (await this.#call<{ link: OpenLink | null }>("thread.link.get", { thread_id: threadId })).link;
  }

  /** Close the thread's link; its members stay. For owners. */
  async revokeLink(threadId: string): Promise<void> {
    await this.#call("thread.link.revoke", { thread_id: threadId });
  }

  /** What you would join by the link with this token. Changes nothing. */
  preview(token: string): Promise<LinkedThread> {
    return this.#call<LinkedThread>("thread.link.preview", { token });
  }

  /** Become a member by the link with this token; the thread's id. Harmless when repeated. */
  async join(token: string): Promise<string> {
    return (await this.#call<{ thread_id: string }>("thread.join", { token })).thread_id;
  }

  /** Take no invitations by a user any more; they are not told. */
  async block(userId: string): Promise<void> {
    await this.#call("user.block", { user_id: userId });
  }

  /** Take invitations by a user again. */
  async unblock(userId: string): Promise<void> {
    await this.#call("user.unblock", { user_id: userId });
  }

  /** Whom you have blocked, by user id. */
  async blocked(): Promise<string[]> {
    return (await this.#call<{ users: string[] }>("user.blocked", {})).users;
  }

  async #call<T>(method: string, data: object): Promise<T> {
    return (await this.#client.rpc(method, data)).data as T;
  }
}
