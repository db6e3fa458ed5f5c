/**
 * Who is in a thread: inviting, answering invitations, leaving, blocking. A method is one RPC of docs/protocol.md; it
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
