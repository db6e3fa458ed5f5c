/**
 * Markdown → blocks that can be shown safely and cheaply while they stream. Pure but for the `clean` that it is given:
 * it knows no DOM (`sanitize.ts` does).
 *
 * Rules: HTML only ever comes out of `clean`; raw HTML in an answer is text; nothing loads from elsewhere (images become
 * links); while an answer streams, only its last blocks are read again, and a block whose HTML did not change stays the
 * same object, so that a selection in it survives; what is nested too deeply is shown as plain text.
 */

import { Lexer, Marked, Parser, type Token, type Tokens, type TokensList } from "marked";

/** One block of an answer; `key` stays the same while the answer grows. `Html` is whatever `clean` returns. */
export type Block<Html> =
  | { kind: "html"; key: string; html: Html; source: string }
  | { kind: "code"; key: string; language: string; code: string }
  | { kind: "plain"; key: string; text: string };

/** TeX → MathML, or null where it cannot be set (yet). */
export type SetMath = (tex: string, display: boolean) => string | null;

/** Levels of quotes and lists on one line that are still read as such. Nobody reads deeper ones. */
const MAX_NESTING = 32;
const TOO_DEEP = new RegExp(`^[ \\t]*(?:(?:>|[-*+]|\\d{1,9}[.)])[ \\t]*){${MAX_NESTING},}`, "m");
/** Brackets that open without an end cost the square of their number. */
const TOO_MANY_OPEN = /(?:[[*_~`<(!]\s?\w{0,2}\s?){400,}/;
/** A longer answer is shown as text: reading its Markdown would hold up the page for seconds. */
const MAX_CHARS = 400_000;
const MAX_TEX_CHARS = 4_000;

/** The text of one answer, as it grows. */
export class MarkdownText<Html> {
  readonly #clean: (html: string) => Html;
  readonly #setMath: SetMath;
  #text = "";
  /** Blocks that will not change any more while the text only grows, and where the text after them begins. */
  #stable: Block<Html>[] = [];
  #readUpTo = 0;
  #links: TokensList["links"] = {};
  #notes = new Notes();
  #shown: Block<Html>[] = [];

  constructor(clean: (html: string) => Html, setMath: SetMath) {
    this.#clean = clean;
    this.#setMath = setMath;
  }

  /**
   * The blocks of `text`, in order.
   *
   * @param growing more is still to come: only the last blocks are read again, and what refers to a definition that
   *   follows (a link, a footnote) is resolved once it is whole.
   */
  blocks(text: string, growing: boolean): Block<Html>[] {
    // A carriage return at the end may be the first half of a line's end.
    const whole = (growing ? text.replace(/\r$/, "") : text).replace(/\r\n?/g, "\n");
    if (!growing || !whole.startsWith(this.#text)) this.#restart();
    this.#text = whole;
    if (whole.length > MAX_CHARS || TOO_DEEP.test(whole) || TOO_MANY_OPEN.test(whole)) return this.#plain(whole);
    try {
      this.#shown = this.#read(whole, growing);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error; // the stack of a reader that descends into what is nested
      return this.#plain(whole);
    }
    return this.#shown;
  }

  #restart(): void {
    this.#stable = [];
    this.#readUpTo = 0;
    this.#links = {};
    this.#notes = new Notes();
  }

  #plain(text: string): Block<Html>[] {
    this.#restart();
    this.#shown = [{ kind: "plain", key: "plain", text }];
    return this.#shown;
  }

  #read(whole: string, growing: boolean): Block<Html>[] {
    const tail = whole.slice(this.#readUpTo);
    const lexer = new Lexer(reader.defaults);
    Object.assign(lexer.tokens.links, this.#links);
    const tokens = lexer.lex(tail);
    const visible = tokens.filter((token) => token.type !== "space" && token.type !== "def");
    const found = [...this.#stable];
    this.#notes.final = !growing;
    if (!growing) for (const token of tokens) if (token.type === "footnote") this.#notes.define(token as NoteToken);
    let at = 0;
    for (const token of tokens) {
      at += token.raw.length;
      const place = visible.indexOf(token);
      if (place < 0) continue;
      if (token.type === "footnote") this.#notes.define(token as NoteToken);
      else found.push(this.#block(token, tokens, `${found.length}`));
      // Two blocks before the end nothing can change any more: an open list, quote or paragraph is the last one.
      if (growing && place === visible.length - 3) {
        this.#stable = [...found];
        this.#readUpTo += at;
        this.#links = { ...tokens.links };
      }
    }
    rendering = { notes: this.#notes, setMath: this.#setMath };
    const notes = this.#notes.html((inner) => Parser.parseInline(inner, reader.defaults));
    if (notes) found.push(this.#html(notes, "notes"));
    return found;
  }

  #block(token: Token, all: TokensList, key: string): Block<Html> {
    if (token.type === "code") {
      const { lang = "", text: code } = token as Tokens.Code;
      return { kind: "code", key, language: lang.split(/\s/, 1)[0] ?? "", code };
    }
    return this.#html(this.#render([token], all), key);
  }

  #render(tokens: Token[], all: TokensList): string {
    rendering = { notes: this.#notes, setMath: this.#setMath };
    return reader.parser(Object.assign([...tokens], { links: all.links }));
  }

  #html(source: string, key: string): Block<Html> {
    const place = key === "notes" ? this.#shown.length - 1 : Number(key);
    const before = this.#shown[place];
    if (before?.kind === "html" && before.key === key && before.source === source) return before;
    return { kind: "html", key, html: this.#clean(source), source };
  }
}

/** What is being rendered; the renderer's functions are shared by all texts. Set right before each use. */
let rendering: { notes: Notes; setMath: SetMath } | null = null;

interface NoteToken extends Tokens.Generic {
  label: string;
  tokens: Token[];
}

/** The footnotes of one text: numbered in the order in which the text refers to them. */
class Notes {
  /** Whether all of the text has been read: then a mark without a note is no mark. */
  final = false;
  readonly #numbers = new Map<string, number>();
  readonly #defined = new Map<string, Token[]>();

  define({ label, tokens }: NoteToken): void {
    if (!this.#defined.has(label)) this.#defined.set(label, tokens);
  }

  mark(label: string): number | null {
    if (this.final && !this.#defined.has(label)) return null;
    const number = this.#numbers.get(label) ?? this.#numbers.size + 1;
    this.#numbers.set(label, number);
    return number;
  }

  html(render: (tokens: Token[]) => string): string {
    const items: string[] = [];
    // A note may refer to another one: the list grows while it is written.
    for (const [label, number] of this.#numbers) {
      const tokens = this.#defined.get(label);
      if (tokens) items.push(`<li value="${number}" data-note="${number}">${render(tokens)}</li>`);
    }
    const list = items.length ? `<ol class="notes">${items.join("")}</ol>` : "";
    if (!this.final) return list;
    // Notes that nothing refers to are part of the answer all the same.
    const others = [...this.#defined].filter(([label]) => !this.#numbers.has(label));
    return list + others.map(([label, tokens]) => `<p>${escape(`[^${label}]: `)}${render(tokens)}</p>`).join("");
  }
}

const reader = new Marked({ gfm: true, breaks: false, async: false });
reader.use({
  renderer: {
    image: ({ href, text }: Tokens.Image): string => `<a href="${escape(href)}">${escape(text || href)}</a>`,
    html: ({ text }: Tokens.HTML | Tokens.Tag): string => escape(text),
  },
  extensions: [
    {
      name: "mathBlock",
      level: "block",
      start: (src: string) => src.match(/^ {0,3}(?:\$\$|\\\[)/m)?.index,
      tokenizer(src: string) {
        const match = /^ {0,3}(?:\$\$([^$]+)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n+|$)/.exec(src);
        return match ? { type: "mathBlock", raw: match[0], tex: (match[1] ?? match[2]!).trim() } : undefined;
      },
      renderer: ({ tex }) => `<p>${math(String(tex), true)}</p>`,
    },
    {
      name: "mathInline",
      level: "inline",
      start: (src: string) => src.match(/\$|\\\(|\\\[/)?.index,
      tokenizer(src: string) {
        // `$5 and $10` is money: after the opening sign and before the closing one there is no space, and no digit after.
        const match = /^(?:\$\$([^$\n]+)\$\$|\$(?![\s$])((?:\\.|[^\\$\n])*?[^\s\\$])\$(?![\w$])|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/.exec(src);
        if (!match) return undefined;
        const display = match[1] !== undefined || match[4] !== undefined;
        return { type: "mathInline", raw: match[0], tex: (match[1] ?? match[2] ?? match[3] ?? match[4]!).trim(), display };
      },
      renderer: ({ tex, display }) => math(String(tex), Boolean(display)),
    },
    {
      name: "footnote",
      level: "block",
      start: (src: string) => src.match(/^\[\^/m)?.index,
      tokenizer(src: string) {
        const match = /^\[\^([^\]\s]{1,80})\]:[ \t]*([^\n]*(?:\n(?:[ \t]{2,}|(?!\[\^|\n)(?=\S))[^\n]+)*)(?:\n+|$)/.exec(src);
        if (!match) return undefined;
        const text = match[2]!.replace(/\n[ \t]+/g, "\n");
        return { type: "footnote", raw: match[0], label: match[1], tokens: this.lexer.inline(text) };
      },
      renderer: () => "",
    },
    {
      name: "footnoteMark",
      level: "inline",
      start: (src: string) => src.match(/\[\^/)?.index,
      tokenizer(src: string) {
        const match = /^\[\^([^\]\s]{1,80})\](?!\()/.exec(src);
        return match ? { type: "footnoteMark", raw: match[0], label: match[1] } : undefined;
      },
      renderer({ label, raw }) {
        const number = rendering?.notes.mark(String(label)) ?? null;
        if (number === null) return escape(raw);
        return `<sup><button type="button" class="note-mark" data-to-note="${number}" aria-label="Note ${number}">${number}</button></sup>`;
      },
    },
  ],
});

function math(tex: string, display: boolean): string {
  const set = tex.length <= MAX_TEX_CHARS ? rendering?.setMath(tex, display) : null;
  return set ?? `<code class="tex">${escape(tex)}</code>`;
}

function escape(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
