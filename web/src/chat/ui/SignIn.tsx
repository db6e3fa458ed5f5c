/** The sign-in page: e-mail (and password where the gateway asks for one), or a token; and why it is shown. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";

import type { Signal } from "@preact/signals";

import type { Refusal } from "@narthex/client";

import { keepAddress } from "../address.ts";
import type { App } from "../app.ts";
import { Problem } from "../session.ts";
import type { Config } from "../wire.ts";
import { Icon } from "./icons.tsx";
import { RefusalCard } from "./RefusalCard.tsx";

/** What the sign-in page needs of a page's state. */
export interface SignInHost {
  readonly config: Signal<Config>;
  readonly refusal: Signal<Refusal | null>;
  signIn(email: string, password: string): Promise<void>;
  paste(token: string): Promise<void>;
}

interface SignInProps {
  app: SignInHost;
  /** A sentence about what signing in is for. */
  purpose?: string;
  /** The page to come back to from another provider. */
  next?: string;
  /** The command that prints a token for this page. */
  command?: string;
}

export function SignIn({ app, purpose = "Sign in to talk to the agents behind this gateway.", next = "/", command = "narthex token" }: SignInProps): JSX.Element {
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const first = useRef<HTMLInputElement>(null);
  const { environment = "", embedded_provider = true, oidc_start } = app.config.value;
  const open = environment === "development" || environment === "testing";

  useEffect(() => first.current?.focus(), []);

  async function go(event: Event, work: () => Promise<void>): Promise<void> {
    event.preventDefault();
    setBusy(true);
    app.refusal.value = null;
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      app.refusal.value = error.refusal;
    } finally {
      setBusy(false);
    }
  }

  return (
    <main class="door">
      <div class="door-card">
        <p class="wordmark"><Icon name="arch" size={22} /> narthex</p>
        <h1>Sign in</h1>
        <p class="quiet">
          {open ? `This gateway runs in ${environment}: any e-mail address works.` : purpose}
        </p>
        {app.refusal.value && <RefusalCard refusal={app.refusal.value} />}
        {embedded_provider && <form onSubmit={(event) => void go(event, () => app.signIn(email, password))}>
          <label for="email">E-mail</label>
          <input ref={first} id="email" name="email" type="email" autocomplete="username" required placeholder="ada@example.org"
            value={email} onInput={(event) => setEmail(event.currentTarget.value)} />
          {!open && (
            <>
              <label for="password">Password</label>
              <input id="password" name="password" type="password" autocomplete="current-password" required
                value={password} onInput={(event) => setPassword(event.currentTarget.value)} />
            </>
          )}
          <button class="primary wide" type="submit" disabled={busy}>{busy ? "One moment …" : "Sign in"}</button>
        </form>}
        {oidc_start && <a class="button wide" href={`${oidc_start}?next=${next}`} onClick={() => keepAddress(location.hash)}>Sign in with your organisation</a>}
        <details class="other-way" open={!embedded_provider && !oidc_start}>
          <summary>Use a token instead</summary>
          <form onSubmit={(event) => void go(event, () => app.paste(token))}>
            <label for="token">Token</label>
            <textarea id="token" name="token" rows={3} spellcheck={false} autocomplete="off" required placeholder="eyJhbGciOi …"
              value={token} onInput={(event) => setToken(event.currentTarget.value)} />
            <p class="hint"><code>{command}</code> prints one. It stays in this tab until you sign out.</p>
            <button class="wide" type="submit" disabled={busy}>Connect with this token</button>
          </form>
        </details>
      </div>
    </main>
  );
}

/** Nothing to show yet, and the gateway cannot be reached or does not let the page in. */
export function Unreachable({ app }: { app: App }): JSX.Element {
  const state = app.state.value;
  const refusal = "refusal" in state ? state.refusal : null;
  return (
    <main class="door">
      <div class="door-card">
        <p class="wordmark"><Icon name="arch" size={22} /> narthex</p>
        <h1>{state.name === "refused" ? "The gateway refuses this page." : "Not right now."}</h1>
        {refusal && <RefusalCard refusal={refusal} />}
        {state.name !== "refused" && <p class="status-line" role="status"><span class="spinner" aria-hidden="true" /> Retrying automatically.</p>}
        <button class="primary wide" type="button" onClick={() => app.retry()}>Try now</button>
        <button class="wide" type="button" onClick={() => app.signOut()}>Sign in as another user</button>
      </div>
    </main>
  );
}
