/**
 * Calls a person back to a page in the background when a run has ended: a count in the page's title, and, where the
 * person allowed it, a notification of the system.
 *
 * Rules: nothing happens while the page is looked at; permission is asked for only by a press of a button; a notification
 * names the thread and the agent, and nothing of what was said.
 */

import { signal, type Signal } from "@preact/signals";

const OFF = "narthex.notifications-off";

export class Attention {
  /** Runs that ended since the page was last looked at. */
  readonly count: Signal<number> = signal(0);
  /** Whether the system shows notifications of this page. */
  readonly allowed: Signal<boolean> = signal(permitted());
  readonly #go: (threadId: string) => void;

  /** @param go shows a thread. */
  constructor(go: (threadId: string) => void) {
    this.#go = go;
    const looked = (): void => {
      if (document.visibilityState === "visible" && document.hasFocus()) this.count.value = 0;
    };
    document.addEventListener("visibilitychange", looked);
    addEventListener("focus", looked);
  }

  /** Whether notifications can be had at all (not on plain http elsewhere than localhost). */
  get possible(): boolean {
    return "Notification" in globalThis && Notification.permission !== "denied";
  }

  /** Switch notifications on, asking for permission where that is needed, or off. */
  async toggle(): Promise<void> {
    if (this.allowed.value) return this.#keep(false);
    const answer = Notification.permission === "granted" ? "granted" : await Notification.requestPermission();
    this.#keep(answer === "granted");
  }

  runEnded(threadId: string, title: string, agent: string, state: string): void {
    if (document.visibilityState === "visible" && document.hasFocus()) return;
    this.count.value += 1;
    if (!this.allowed.value) return;
    const words = { interrupted: "asks you a question", failed: "ended early", cancelled: "was stopped" }[state] ?? "has answered";
    const notification = new Notification(title || "narthex", { body: `${agent || "The agent"} ${words}.`, tag: threadId });
    notification.onclick = () => {
      window.focus();
      this.#go(threadId);
      notification.close();
    };
  }

  #keep(on: boolean): void {
    this.allowed.value = on;
    try {
      if (on) localStorage.removeItem(OFF);
      else localStorage.setItem(OFF, "1");
    } catch {
      // Storage is off: the choice lasts as long as the page.
    }
  }
}

function permitted(): boolean {
  try {
    return "Notification" in globalThis && Notification.permission === "granted" && localStorage.getItem(OFF) === null;
  } catch {
    return false;
  }
}
