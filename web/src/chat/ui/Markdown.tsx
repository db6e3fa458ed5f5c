/** A text as Markdown, block by block. */

import type { JSX } from "preact";
import { useMemo, useRef } from "preact/hooks";

import { colours, formulas } from "../extras.ts";
import { MarkdownText, type Block } from "../markdown.ts";
import { clean, type Safe } from "../sanitize.ts";
import { CopyButton } from "./CopyButton.tsx";
import { memo } from "./memo.ts";

export const Markdown = memo(function Markdown({ text, streaming }: { text: string; streaming: boolean }): JSX.Element {
  const engine = formulas.loaded.value;
  const reader = useMemo(() => new MarkdownText<Safe>(clean, (tex, display) => formulas.get()?.setMath(tex, display) ?? null), [engine]);
  const found = useMemo(() => reader.blocks(text, streaming), [reader, text, streaming]);
  const box = useRef<HTMLDivElement>(null);

  /** A footnote's mark leads to its note, which is somewhere else in the same text. */
  function toNote(event: MouseEvent): void {
    const number = (event.target as HTMLElement).closest<HTMLElement>("[data-to-note]")?.dataset["toNote"];
    const note = number && box.current?.querySelector<HTMLElement>(`[data-note="${CSS.escape(number)}"]`);
    if (!note) return;
    note.tabIndex = -1;
    note.focus();
    note.scrollIntoView({ block: "nearest" });
  }

  return (
    <div ref={box} class={streaming ? "prose streaming" : "prose"} onClick={toNote}>
      {found.map((block) =>
        block.kind === "code" ? <Code key={block.key} block={block} />
        : block.kind === "plain" ? <p key={block.key} class="block plain" dir="auto">{block.text}</p>
        : <Html key={block.key} html={block.html} />,
      )}
    </div>
  );
});

const Html = memo(function Html({ html }: { html: Safe }): JSX.Element {
  return <div class="block" dangerouslySetInnerHTML={{ __html: html as string }} />;
});

const Code = memo(function Code({ block }: { block: Block<Safe> & { kind: "code" } }): JSX.Element {
  const { code, language } = block;
  const engine = colours.loaded.value ?? (language ? colours.get() : null);
  const html = useMemo(() => {
    const coloured = language ? engine?.highlight(code, language.toLowerCase()) : null;
    return coloured ? clean(coloured) : null;
  }, [engine, code, language]);
  return (
    <figure class="code" dir="ltr">
      <figcaption>
        <span>{language || "text"}</span>
        <CopyButton text={() => code} label="Copy code" words="Copy" />
      </figcaption>
      <pre tabIndex={0}>{html === null ? <code>{code}</code> : <code dangerouslySetInnerHTML={{ __html: html as string }} />}</pre>
    </figure>
  );
});
