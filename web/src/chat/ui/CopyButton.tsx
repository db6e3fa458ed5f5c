/** Copies a text and says so. Works on plain http too, where the clipboard API is missing. */

import type { JSX } from "preact";
import { useState } from "preact/hooks";

import { Icon } from "./icons.tsx";

export function CopyButton({ text, label, words }: { text: () => string; label: string; words?: string }): JSX.Element {
  const [done, setDone] = useState(false);
  async function copy(): Promise<void> {
    setDone(await put(text()));
    setTimeout(() => setDone(false), 1500);
  }
  return (
    <button type="button" class="small ghost" aria-label={label} title={label} onClick={() => void copy()}>
      <Icon name={done ? "check" : "copy"} size={15} />
      {words && <span>{done ? "Copied" : words}</span>}
      <span class="sr" role="status">{done ? "Copied" : ""}</span>
    </button>
  );
}

async function put(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
