/** A button with a short list of things to do. Escape and a click elsewhere close it; a dangerous entry asks once more. */

import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";

import { Icon, type IconName } from "./icons.tsx";

export interface Entry {
  text: string;
  run: () => void;
  danger?: boolean;
  /** Shown in place of `text` after the first press. */
  confirm?: string;
}

export function Menu({ label, icon, entries }: { label: string; icon: IconName; entries: Entry[] }): JSX.Element {
  const [open, setOpen] = useState(false);
  const [asked, setAsked] = useState("");
  const holder = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);
  const id = useId();

  useEffect(() => {
    if (!open) return;
    setAsked("");
    const elsewhere = (event: Event): void => {
      if (!holder.current?.contains(event.target as Node)) setOpen(false);
    };
    addEventListener("pointerdown", elsewhere);
    addEventListener("focusin", elsewhere);
    holder.current?.querySelector<HTMLButtonElement>("li button")?.focus();
    return () => {
      removeEventListener("pointerdown", elsewhere);
      removeEventListener("focusin", elsewhere);
    };
  }, [open]);

  function keys(event: KeyboardEvent): void {
    if (!open) return;
    const buttons = [...holder.current!.querySelectorAll<HTMLButtonElement>("li button")];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    if (event.key === "Escape") {
      event.stopPropagation();
      setOpen(false);
      button.current?.focus();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      buttons[(at + (event.key === "ArrowDown" ? 1 : buttons.length - 1)) % buttons.length]?.focus();
    }
  }

  function choose(entry: Entry): void {
    if (entry.confirm && asked !== entry.text) return setAsked(entry.text);
    setOpen(false);
    entry.run();
  }

  return (
    <div class="menu" ref={holder} onKeyDown={keys}>
      <button ref={button} type="button" class="ghost" aria-label={label} title={label} aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}><Icon name={icon} /></button>
      <ul id={id} hidden={!open}>
        {entries.map((entry) => (
          <li key={entry.text}>
            <button type="button" class={entry.danger ? "danger" : ""} onClick={() => choose(entry)}>{asked === entry.text ? entry.confirm : entry.text}</button>
          </li>
        ))}
      </ul>
    </div>
  );
}
