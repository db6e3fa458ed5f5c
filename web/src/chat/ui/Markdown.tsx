/** A text as Markdown, block by block. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import { blocks, type Block, type Safe } from "../markdown.ts";
import { CopyButton } from "./CopyButton.tsx";
import { memo } from "./memo.ts";

export const Markdown = memo(function Markdown({ text, streaming }: { text: string; streaming: boolean }): JSX.Element {
  const found = useMemo(() => blocks(text), [text]);
  return (
    <div class={streaming ? "prose streaming" : "prose"}>
      {found.map((block) => (block.kind === "code" ? <Code key={block.key} block={block} /> : <Html key={block.key} html={block.html} />))}
    </div>
  );
});

const Html = memo(function Html({ html }: { html: Safe }): JSX.Element {
  return <div class="block" dangerouslySetInnerHTML={{ __html: html as string }} />;
});

function Code({ block }: { block: Block & { kind: "code" } }): JSX.Element {
  return (
    <figure class="code">
      <figcaption>
        <span>{block.language || "text"}</span>
        <CopyButton text={() => block.code} label="Copy code" />
      </figcaption>
      <pre tabIndex={0}><code>{block.code}</code></pre>
    </figure>
  );
}
