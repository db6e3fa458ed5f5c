/** Full text over one's own threads. */

import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { App } from "../app.ts";
import { said } from "../conversation.ts";
import type { Hit } from "../wire.ts";
import { Dialog } from "./Dialog.tsx";
import { composing } from "./keys.ts";
import { shortTime } from "./words.ts";

/** Wait for a pause in the typing, so that each word is one question. */
const PAUSE_MS = 180;

export function Search({ app, onClose }: { app: App; onClose: () => void }): JSX.Element {
  const [text, setText] = useState("");
  const [hits, setHits] = useState<Hit[] | null>(null);
  const [problem, setProblem] = useState("");
  const field = useRef<HTMLInputElement>(null);

  useEffect(() => field.current?.focus(), []);
  useEffect(() => {
    const wanted = text.trim();
    if (!wanted) return setHits(null);
    let current = true;
    const timer = setTimeout(() => {
      app.search(wanted).then(
        (found) => { if (current) { setHits(found); setProblem(""); } },
        (error: unknown) => { if (current) setProblem(said(error)); },
      );
    }, PAUSE_MS);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);

  return (
    <Dialog title="Search" onClose={onClose}>
      <label class="sr" for="search">Search your threads</label>
      <input ref={field} id="search" type="search" placeholder="Search in your threads" autocomplete="off" maxLength={200} value={text} onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => { if (event.key === "Escape" && !composing(event)) { event.preventDefault(); onClose(); } }} />
      {problem && <p class="problem" role="alert">{problem}</p>}
      <p class="sr" role="status">{hits === null ? "" : `${hits.length} found`}</p>
      {hits?.length === 0 && <p class="quiet">Nothing found.</p>}
      <ul class="hits">
        {hits?.map((hit) => (
          <li key={hit.thread_id + hit.message_id}>
            <a href={`#/t/${encodeURIComponent(hit.thread_id)}?m=${encodeURIComponent(hit.message_id)}`} onClick={onClose}>
              <span class="hit-title">{hit.title} <time>{shortTime(hit.created_at * 1000)}</time></span>
              <span class="snippet">{marked(hit.snippet)}</span>
            </a>
          </li>
        ))}
      </ul>
    </Dialog>
  );
}

/** The gateway puts found words in square brackets; signs of Markdown say nothing on one line. */
function marked(snippet: string): (string | JSX.Element)[] {
  return snippet.replace(/\*\*|`|\||(?<!\S)-{3,}(?!\S)/g, "").split(/(\[[^\]]*\])/).map((piece) => (piece.startsWith("[") ? <mark>{piece.slice(1, -1)}</mark> : piece));
}
