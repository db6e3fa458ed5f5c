/** Saves a thread as a file: the gateway's export, or, where it has none, what this page shows. */

import type { App } from "./app.ts";
import type { Conversation } from "./conversation.ts";
import { root } from "./root.ts";
import { answerOf, type Item, type RunItem } from "./timeline.ts";

export async function exportThread(app: App, conversation: Conversation, format: "md" | "json"): Promise<void> {
  const path = `/api/v1/threads/${encodeURIComponent(conversation.id.value)}/export?format=${format}`;
  const response = await fetch(root + path, { credentials: "same-origin", headers: app.session.headers() });
  const name = `${fileName(conversation.title.value)}.${format}`;
  if (response.ok) return save(await response.blob(), name);
  if (response.status !== 404) throw new Error(`The gateway did not export the thread: HTTP ${response.status}.`);
  const text = format === "md" ? asMarkdown(conversation) : JSON.stringify(conversation.items.value, null, 2);
  save(new Blob([text], { type: format === "md" ? "text/markdown" : "application/json" }), name);
}

function asMarkdown(conversation: Conversation): string {
  const parts = conversation.items.value.map((item: Item) => {
    if (item.kind === "message") return `**${conversation.nameOf(item.author)}** · ${new Date(item.at).toISOString()}\n\n${item.text}`;
    return `**${item.agent || "Agent"}**${item.startedAt ? ` · ${new Date(item.startedAt).toISOString()}` : ""}\n\n${[answerOf(item), endingOf(item)].filter(Boolean).join("\n\n")}`;
  });
  return `# ${conversation.title.value}\n\n${parts.join("\n\n---\n\n")}\n`;
}

/** How a run ended that failed or was stopped; empty for others. */
function endingOf({ view, stoppedBy }: RunItem): string {
  if (view.phase === "failed") return `The run failed: ${view.error?.message || view.error?.code || "no reason is known"}`;
  return view.phase === "cancelled" ? `The run was stopped${stoppedBy ? ` by ${stoppedBy}` : ""}.` : "";
}

function fileName(title: string): string {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60) || "thread";
}

function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
