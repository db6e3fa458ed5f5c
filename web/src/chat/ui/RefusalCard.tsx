/** A refusal in the gateway's own words: what, why, what to do, and the code and trace id to quote. */

import type { JSX } from "preact";

import type { Refusal } from "@narthex/client";

import { Icon } from "./icons.tsx";

export function RefusalCard({ refusal }: { refusal: Refusal }): JSX.Element {
  const { title, detail, remedy, code, close, status, traceId, retryAfter } = refusal;
  const facts = [code, close ? `close ${close}` : "", status ? `HTTP ${status}` : "", traceId ? `trace ${traceId}` : ""].filter(Boolean);
  return (
    <div class="refusal" role="alert" data-code={code}>
      <p class="refusal-title"><Icon name="warn" /> {title}</p>
      {detail && detail !== title && <p>{detail}</p>}
      {remedy && <p class="remedy">{marks(remedy)}</p>}
      {retryAfter !== null && <p class="remedy">The gateway asks to retry in {retryAfter} s.</p>}
      <p class="facts">{facts.join(" · ")}</p>
    </div>
  );
}

/** The gateway writes names as `code`. */
function marks(text: string): (string | JSX.Element)[] {
  return text.split(/(`[^`]+`)/).map((piece) => (piece.startsWith("`") ? <code>{piece.slice(1, -1)}</code> : piece));
}
