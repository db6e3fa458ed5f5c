/** The connection: where the gateway is, who the user is, and the SDK's client. */

import { narthexWebSocket, SignedOut, type Refusal } from "@narthex/client";
import { Centrifuge } from "centrifuge";
import { useEffect, useState } from "react";

const GATEWAY = "http://127.0.0.1:8000";

/**
 * A fresh token, asked for before each attempt. This one signs in at the gateway's own sign-in, which asks for no
 * password in development. In production ask your issuer here; nothing else of this page changes.
 */
async function getToken(): Promise<string> {
  const email = sessionStorage.getItem("email");
  if (!email) throw new SignedOut("Sign in first.");
  const answer = await fetch(`${GATEWAY}/auth/login`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ email }),
  });
  const body = await answer.json();
  if (!answer.ok) throw new SignedOut(body.detail ?? body.title);
  sessionStorage.setItem("userId", body.user.id);
  return body.access_token;
}

/** Of the user who signed in. */
export const ownUserId = (): string | null => sessionStorage.getItem("userId");

/** `onRefused` gets the reason where the gateway refuses. */
function createClient(onRefused: (refusal: Refusal) => void): Centrifuge {
  return new Centrifuge(`${GATEWAY.replace("http", "ws")}/ws`, {
    getToken,
    websocket: narthexWebSocket({ getToken, onRefused }),
  });
}

/** One connection for the page. `status`: words for the user: `connected`, `connecting…`, or why the gateway refused. */
export function useClient(): { client: Centrifuge; status: string } {
  const [status, setStatus] = useState("connecting…");
  const [client] = useState(() => createClient(({ title, remedy }) => setStatus(`${title}. ${remedy}`)));
  useEffect(() => {
    const connected = () => setStatus("connected");
    const connecting = () => setStatus("connecting…");
    client.on("connected", connected).on("connecting", connecting).connect();
    return () => {
      client.off("connected", connected).off("connecting", connecting);
      client.disconnect();
    };
  }, [client]);
  return { client, status };
}
