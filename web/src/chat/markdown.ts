/**
 * Markdown → blocks that can be shown safely and cheaply while they stream.
 *
 * Rules: HTML only ever comes out of DOMPurify with a closed list of tags and attributes; nothing loads from
 * elsewhere (images become links); a block whose source did not change keeps its HTML, so that an answer of any
 * length costs one block per frame and a selection in a finished block survives.
 */

import DOMPurify from "dompurify";
import { marked, type Token, type Tokens, type TokensList } from "marked";
import type { TrustedHTML } from "trusted-types/lib";

/** HTML that DOMPurify let through; where the browser has Trusted Types, it knows that too. */
export type Safe = TrustedHTML | string;

export type Block = { kind: "html"; key: string; html: Safe } | { kind: "code"; key: string; language: string; code: string };

const TAGS = [
  "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "input", "kbd", "li",
  "mark", "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const ATTRIBUTES = ["href", "title", "start", "align", "type", "checked", "disabled", "target", "rel"];
/** Finished blocks kept; more than any answer has on the screen at once. */
const KEPT = 2_000;

const html = new Map<string, Safe>();

const renderer = new marked.Renderer();
renderer.image = ({ href, text }: Tokens.Image): string => `<a href="${escape(href)}">${escape(text || href)}</a>`;
/** Raw HTML in an answer is text, as the agent wrote it. */
renderer.html = ({ text }: Tokens.HTML | Tokens.Tag): string => escape(text);

const options = { gfm: true, breaks: false, async: false as const, renderer };

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // A task list's boxes are the only inputs, and they only show.
  if (node.tagName === "INPUT") {
    if (node.getAttribute("type") === "checkbox") node.setAttribute("disabled", "");
    else node.remove();
  }
});

/** The blocks of a Markdown text, in order. */
export function blocks(text: string): Block[] {
  const tokens = marked.lexer(text, options);
  const found: Block[] = [];
  tokens.forEach((token, place) => {
    if (token.type === "space" || token.type === "def") return;
    const key = `${place}`;
    if (token.type === "code") {
      const { lang = "", text: code } = token as Tokens.Code;
      found.push({ kind: "code", key, language: lang.split(/\s/, 1)[0] ?? "", code });
    } else {
      // The last block may still grow: keeping each of its states would keep the text once per frame.
      found.push({ kind: "html", key, html: safe(token, tokens.links, place < tokens.length - 1) });
    }
  });
  return found;
}

function safe(token: Token, links: TokensList["links"], keep: boolean): Safe {
  const there = html.get(token.raw);
  if (there !== undefined) return there;
  const list = Object.assign([token], { links }) as TokensList;
  const dirty = marked.parser(list, options);
  const clean = DOMPurify.sanitize(dirty, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto|tel):/i,
    RETURN_TRUSTED_TYPE: true,
  });
  if (keep) {
    if (html.size >= KEPT) html.delete(html.keys().next().value!);
    html.set(token.raw, clean);
  }
  return clean;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
