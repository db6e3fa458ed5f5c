/**
 * What every page with a session has: its state, its connection, signing in and out, and a line that says something.
 *
 * Rules: the states and edges are those of `session-state.ts`; the work of the states that all pages share is done here,
 * and what comes of it is put in as the next input. A page does the rest in `entered`.
 */

import { signal, type Signal } from "@preact/signals";

import { SignedOut, type Refusal } from "@narthex/client";

import { Connection } from "./connection.ts";
import { START, inputOf, next, pauseMs, type SessionInput, type SessionState } from "./session-state.ts";
import { Problem, Session, preflight, request } from "./session.ts";
import type { Config } from "./wire.ts";

const TOAST_MS = 6_000;

export abstract class SessionPage {
  readonly state: Signal<SessionState> = signal(START);
  /** Why the sign-in page is shown, or why a sign-in did not work. */
  readonly refusal: Signal<Refusal | null> = signal(null);
  readonly config: Signal<Config> = signal({});
  readonly toast = signal("");
  readonly session = new Session();
  readonly connection: Connection;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #toastTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(client?: string) {
    this.connection = new Connection(this.session, client);
    this.connection.link.subscribe((link) => {
      // Not within the signal's own update: the next state changes the connection.
      if (link.phase === "refused") queueMicrotask(() => this.input(inputOf(link.refusal, this.session.renewable)));
    });
  }

  /** The first step of the page: find out whether a user is signed in already. */
  start(): void {
    void request("/ws/config").then(
      (config) => (this.config.value = (config ?? {}) as Config),
      () => undefined,
    );
    void this.#ask();
  }

  async signIn(email: string, password: string): Promise<void> {
    await this.session.signIn(email, password);
    this.input({ type: "admitted" });
  }

  /** Use a pasted token. The gateway's verdict comes back in words when it is not admitted. */
  async paste(token: string): Promise<void> {
    this.session.paste(token);
    const refusal = await preflight(this.session);
    if (refusal === null) return this.input({ type: "admitted" });
    const input = inputOf(refusal, false);
    if (input.type !== "unavailable") this.session.dropPasted();
    this.input(input);
  }

  signOut(): void {
    this.input({ type: "sign_out" });
  }

  /** Do not wait for the next attempt: of the session, or of its connection. */
  retry(): void {
    const { name } = this.state.value;
    if (name === "offline" || name === "refused") this.input({ type: "retry" });
    else if (name === "signed_in" && this.connection.link.value.phase === "connecting") this.connection.retry();
  }

  /** Say something for a few seconds. */
  say(text: string): void {
    this.toast.value = text;
    clearTimeout(this.#toastTimer);
    this.#toastTimer = setTimeout(() => (this.toast.value = ""), TOAST_MS);
  }

  /** Run something that may fail, and say so if it does. */
  async attempt(work: () => Promise<unknown>): Promise<boolean> {
    try {
      await work();
      return true;
    } catch (error) {
      this.say(this.words(error));
      return false;
    }
  }

  protected input(input: SessionInput): void {
    const before = this.state.value;
    const state = next(before, input, Date.now());
    if (state === before) return;
    clearTimeout(this.#retry);
    this.state.value = state;
    if (state.name === "starting") return void this.#ask();
    if (state.name === "renewing") return void this.#renew(state.refusal);
    if (state.name === "leaving") return void this.#leave();
    if (state.name === "offline") this.#retry = setTimeout(() => this.input({ type: "retry" }), pauseMs(state));
    this.entered(state);
  }

  /** The session is in this state now: signed in, offline, signed out or refused. */
  protected abstract entered(state: SessionState): void;

  /** The gateway has confirmed the end of the session: forget what was the user's. */
  protected left(): void {}

  protected words(error: unknown): string {
    const { detail, title } = failure(error);
    return detail || title;
  }

  /** `starting`: does the gateway admit what is at hand? */
  async #ask(): Promise<void> {
    const refusal = await preflight(this.session).catch(failure);
    if (refusal === null) {
      this.session.accepted();
      return this.input({ type: "admitted" });
    }
    this.input(inputOf(refusal, this.session.renewable));
  }

  /** `renewing`: a new token from the refresh cookie. */
  async #renew(refusal: Refusal): Promise<void> {
    try {
      await this.session.renew();
      this.input({ type: "renewed" });
    } catch (error) {
      if (error instanceof SignedOut) this.input({ type: "ended", refusal });
      else this.input({ type: "unavailable", refusal: failure(error) });
    }
  }

  /** `leaving`: signed out is only what the gateway confirmed. */
  async #leave(): Promise<void> {
    this.connection.close();
    try {
      await this.session.signOut();
    } catch (error) {
      this.input({ type: "leave_failed" });
      return this.say(`You are still signed in on this browser: ${failure(error).title.toLowerCase()}. Try again.`);
    }
    this.left();
    this.input({ type: "left" });
  }
}

/** A failed request as a refusal. */
export function failure(error: unknown): Refusal {
  if (error instanceof Problem) return error.refusal;
  const title = error instanceof Error ? error.message : "The request failed";
  return { code: "page_error", title, detail: "", remedy: "Reload the page.", status: 0, close: 0, traceId: "", retryAfter: null, retries: true };
}
