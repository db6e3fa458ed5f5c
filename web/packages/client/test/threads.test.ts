/** Each method of `Threads` is the RPC that docs/protocol.md names, with its params. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Threads } from "../src/threads.ts";

function scripted(answers: Record<string, unknown>): { calls: [string, unknown][]; threads: Threads } {
  const calls: [string, unknown][] = [];
  const rpc = (method: string, data: unknown): Promise<{ data: unknown }> => {
    calls.push([method, data]);
    return Promise.resolve({ data: answers[method] ?? {} });
  };
  return { calls, threads: new Threads({ rpc }) };
}

test("params and results", async () => {
  const invitation = { thread_id: "t", title: "T", invited_by: "ada", inviter_name: "Ada", created_at: 1 };
  const made = { token: "k", expires_at: 2 };
  const linked = { thread_id: "", title: "T", created_by: "ada", creator_name: "Ada", members: 1, expires_at: 2, role: "" };
  const { calls, threads } = scripted({
    "thread.members.add": { state: "invited" },
    "thread.invitations": { invitations: [invitation] },
    "thread.invitation.decline": { declined: ["a"], failed: { b: "invitation_not_found" } },
    "thread.leave": { left: ["a"], failed: {} },
    "thread.link": made,
    "thread.link.get": { link: null },
    "thread.link.preview": linked,
    "thread.join": { thread_id: "t" },
    "user.blocked": { users: ["eve"] },
  });
  assert.equal(await threads.addMember("t", "bob"), "invited");
  await threads.removeMember("t", "bob");
  assert.deepEqual(await threads.invitations(), [invitation]);
  await threads.accept("t");
  assert.deepEqual(await threads.decline(["a", "b"]), { done: ["a"], failed: { b: "invitation_not_found" } });
  assert.deepEqual(await threads.leave(["a"]), { done: ["a"], failed: {} });
  assert.deepEqual(await threads.makeLink("t"), made);
  assert.equal(await threads.link("t"), null);
  await threads.revokeLink("t");
  assert.deepEqual(await threads.preview("k"), linked);
  assert.equal(await threads.join("k"), "t");
  await threads.block("eve");
  await threads.unblock("eve");
  assert.deepEqual(await threads.blocked(), ["eve"]);
  assert.deepEqual(calls, [
    ["thread.members.add", { thread_id: "t", user_id: "bob" }],
    ["thread.members.remove", { thread_id: "t", user_id: "bob" }],
    ["thread.invitations", { limit: 200 }],
    ["thread.invitation.accept", { thread_id: "t" }],
    ["thread.invitation.decline", { thread_ids: ["a", "b"] }],
    ["thread.leave", { thread_ids: ["a"] }],
    ["thread.link", { thread_id: "t", days: 7 }],
    ["thread.link.get", { thread_id: "t" }],
    ["thread.link.revoke", { thread_id: "t" }],
    ["thread.link.preview", { token: "k" }],
    ["thread.join", { token: "k" }],
    ["user.block", { user_id: "eve" }],
    ["user.unblock", { user_id: "eve" }],
    ["user.blocked", {}],
  ]);
});

test("a gateway of the version before answers nothing: the user is a member", async () => {
  assert.equal(await scripted({}).threads.addMember("t", "bob"), "member");
});
