/**
 * The credentials of this page: the sign-in, the token at hand, and where a fresh one comes from. Which state the
 * session is in is decided in `session-state.ts`.
 *
 * Rules: a sign-in lives in HttpOnly cookies that scripts cannot read; the access token is kept in memory only. A
 * pasted token is kept in this tab's sessionStorage, because whoever pastes one expects a reload to keep it.
 */

import { SignedOut, refusalFromProblem, type Refusal } from "@narthex/client";

import { root } from "./root.ts";

const PASTED = "narthex.token";
/** Set while there is a refresh cookie, which scripts cannot see: whether asking for a fresh token makes sense. */
const SIGNED_IN = "narthex.signed-in";
/** Refresh this long before a token ends, so that it does not end on its way. */
const MARGIN_MS = 30_000;
const TIMEOUT_MS = 10_000;

/** A request that did not do what it should, in words. */
export class Problem extends Error {
  readonly refusal: Refusal;

  constructor(refusal: Refusal) {
    super(refusal.detail || refusal.title);
    this.name = "Problem";
    this.refusal = refusal;
  }
}

interface Tokens {
  access_token: string;
  expires_in: number;
}

export class Session {
  #token = "";
  #endsAt = 0;
  #pasted = sessionStorage.getItem(PASTED) ?? "";
  #refreshing: Promise<string> | null = null;

  /** Whether a pasted token is in use. */
  get pasted(): boolean {
    return this.#pasted !== "";
  }

  /** Sign in with the gateway's own provider. */
  async signIn(email: string, password: string): Promise<void> {
    const body = password ? { email, password } : { email };
    this.#keep((await request("/auth/login", { method: "POST", body: JSON.stringify(body) })) as Tokens);
    this.#forgetPasted();
    remember(true);
  }

  /** The cookie was accepted, whoever set it (a sign-in elsewhere comes back as a navigation). */
  accepted(): void {
    if (!this.#pasted) remember(true);
  }

  /** Whether somebody signed in on this browser and did not sign out: their session may be renewed. */
  get renewable(): boolean {
    return !this.#pasted && remembered();
  }

  paste(token: string): void {
    this.#pasted = token.trim();
    sessionStorage.setItem(PASTED, this.#pasted);
  }

  /**
   * Sign out. The cookies are gone once this returns.
   *
   * @throws Problem when the gateway did not confirm it: the person is still signed in on this browser.
   */
  async signOut(): Promise<void> {
    if (!this.#pasted) {
      // A renewal under way would bring new cookies after the sign-out took the old ones.
      await this.#refreshing?.catch(() => undefined);
      try {
        await request("/auth/logout", { method: "POST", body: "{}" });
      } catch (error) {
        if (!isOver(error)) throw error;
      }
    }
    this.#forgetPasted();
    this.#token = "";
    remember(false);
  }

  /** Forget a pasted token that the gateway does not accept. */
  dropPasted(): void {
    this.#forgetPasted();
  }

  /** For each handshake: the token at hand, or `""` where the cookie serves. */
  handshakeToken = (): string => this.#pasted || (this.#fresh() ? this.#token : "");

  /** For the SDK: at the first connect whatever is at hand; later, in-band, a token that lasts. */
  connectToken = async (): Promise<string> => this.handshakeToken();

  /**
   * A token that still lasts a while, from the refresh cookie.
   *
   * @throws SignedOut when the session has ended; Problem when the gateway cannot tell right now.
   */
  refresh = (): Promise<string> => {
    if (this.#pasted) return Promise.resolve(this.#pasted);
    return this.#fresh() ? Promise.resolve(this.#token) : this.renew();
  };

  /** As `refresh`, also where the token at hand seems to last: the gateway did not accept it. One request at a time. */
  renew(): Promise<string> {
    this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  /** Headers for the gateway's HTTP API. */
  headers(): Record<string, string> {
    const token = this.handshakeToken();
    return token ? { Authorization: `Bearer ${token}` } : {};
  }

  async #refresh(): Promise<string> {
    try {
      this.#keep((await request("/auth/refresh", { method: "POST", body: "{}" })) as Tokens);
      return this.#token;
    } catch (error) {
      if (isOver(error)) {
        this.#token = "";
        remember(false);
        throw new SignedOut("The session has ended.");
      }
      throw error;
    }
  }

  #fresh(): boolean {
    return this.#token !== "" && Date.now() < this.#endsAt - MARGIN_MS;
  }

  #keep(tokens: Tokens): void {
    this.#token = tokens.access_token;
    this.#endsAt = Date.now() + tokens.expires_in * 1000;
  }

  #forgetPasted(): void {
    this.#pasted = "";
    sessionStorage.removeItem(PASTED);
  }
}

/** Whether an answer of the provider means that there is no session (any more). */
function isOver(error: unknown): boolean {
  return error instanceof Problem && [400, 401, 403, 404].includes(error.refusal.status);
}

function remembered(): boolean {
  try {
    return localStorage.getItem(SIGNED_IN) === "1";
  } catch {
    return false;
  }
}

function remember(signedIn: boolean): void {
  try {
    if (signedIn) localStorage.setItem(SIGNED_IN, "1");
    else localStorage.removeItem(SIGNED_IN);
  } catch {
    // Storage is off: after a reload one signs in again.
  }
}

/** Whether a connection would be admitted with what is at hand (cookie or pasted token). Null when it would. */
export async function preflight(session: Session): Promise<Refusal | null> {
  try {
    const verdict = (await request("/ws/preflight", { headers: session.headers() })) as { inert?: string | null } | null;
    // An inert connection is one that still has to prove itself: for a page, nobody is signed in.
    if (!verdict?.inert) return null;
    const code = verdict.inert === "expired" ? "token_expired" : "auth_required";
    return { ...words(code, "Authentication required", "Sign in.", 401), detail: "" };
  } catch (error) {
    if (error instanceof Problem) return error.refusal;
    throw error;
  }
}

/**
 * One JSON request to this gateway, cookies included.
 * @param path Of the gateway's, without `root`.
 * @throws Problem always with words: the gateway's, or "cannot be reached".
 */
export async function request(path: string, init: RequestInit = {}): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(root + path, {
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
      ...init,
      headers: { ...(init.body ? { "Content-Type": "application/json" } : {}), ...(init.headers as object) },
    });
  } catch {
    throw new Problem(words("unreachable", "The gateway cannot be reached", "Check the network, then try again.", 0));
  }
  const body: unknown = await response.json().catch(() => null);
  if (response.ok) return body;
  const known = refusalFromProblem(response.status, body, response.headers.get("Retry-After"));
  if (known) throw new Problem({ ...known, close: 0 }); // nothing was closed: it was one request
  const { title, detail, code } = (body ?? {}) as Record<string, unknown>;
  const said = typeof detail === "string" ? detail : typeof title === "string" ? title : `It answered HTTP ${response.status}`;
  throw new Problem(words(typeof code === "string" ? code : `http_${response.status}`, said, "", response.status));
}

function words(code: string, title: string, remedy: string, status: number): Refusal {
  return { code, title, detail: "", remedy, status, close: 0, traceId: "", retryAfter: null, retries: false };
}
