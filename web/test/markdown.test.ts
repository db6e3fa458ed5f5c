import assert from "node:assert/strict";
import test from "node:test";

import { Lexer } from "marked";

import { highlight } from "../src/chat/highlight.ts";
import { MarkdownText, type Block } from "../src/chat/markdown.ts";
import { setMath } from "../src/chat/math.ts";

const noMath = (): null => null;
const reader = (math: (tex: string, display: boolean) => string | null = noMath): MarkdownText<string> => new MarkdownText((html) => html, math);
const whole = (text: string): Block<string>[] => reader().blocks(text, false);
const html = (text: string, math = noMath as (tex: string, display: boolean) => string | null): string =>
  reader(math).blocks(text, false).map((block) => (block.kind === "html" ? block.html : block.kind === "code" ? `<code ${block.language}>` : `<plain>`)).join("");

const SAMPLE = `# A title

Some *words* with \`code\`, a [link](https://example.org) and a second line
that goes on.

- one
- two
  - deeper
    continued

  after a blank line
- [x] done
- [ ] open

1. first
2. second

> quoted
> lines

| a | b |
|:--|--:|
| 1 | 2 |

\`\`\`python
def f():
    return 1

print("x")
\`\`\`

Setext
------

$$
a + b
$$

Text with $x^2$ and \\(y\\).

---

<b>raw</b>

Last words.
`;

test("an answer that grows in any pieces ends as it would have been read whole", () => {
  let seed = 7;
  const random = (): number => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) / 2 ** 31;
  for (const text of [SAMPLE, SAMPLE.replaceAll("\n", "\r\n"), "a\n\nb\n\nc\n\nd", "- a\n\n\n- b\n\n  c\n\n\nd\n", "```\nx\n\n\ny", "a\n\n\n\n\nb\n===\n\n    code\n\n    more\n\nend"]) {
    for (let round = 0; round < 20; round++) {
      const growing = reader();
      let last: Block<string>[] = [];
      for (let at = 0; at < text.length; ) {
        at = Math.min(text.length, at + 1 + Math.floor(random() * 12));
        last = growing.blocks(text.slice(0, at), true);
      }
      const plain = (blocks: Block<string>[]): unknown[] => blocks.map((block) => ({ ...block }));
      assert.deepEqual(plain(last), plain(whole(text)));
      assert.deepEqual(plain(growing.blocks(text, false)), plain(whole(text)));
    }
  }
});

test("a growing answer is not read again from its beginning", () => {
  const original = Lexer.prototype.lex;
  let read = 0;
  Lexer.prototype.lex = function (src: string) {
    read += src.length;
    return original.call(this, src);
  };
  try {
    const text = "A paragraph of some words, as answers have them.\n\n".repeat(400);
    const growing = reader();
    for (let at = 0; at < text.length; at += 20) growing.blocks(text.slice(0, at), true);
    assert.ok(read < text.length * 12, `${read} characters were read for a text of ${text.length}`);
  } finally {
    Lexer.prototype.lex = original;
  }
});

test("a block that did not change stays the same object, also when the answer ends", () => {
  const growing = reader();
  const before = growing.blocks("one\n\ntwo\n\nthree\n\nfour", true);
  const after = growing.blocks("one\n\ntwo\n\nthree\n\nfour, five", true);
  const end = growing.blocks("one\n\ntwo\n\nthree\n\nfour, five", false);
  for (const place of [0, 1, 2]) assert.ok(before[place] === after[place] && after[place] === end[place]);
  assert.notEqual(before[3], after[3]);
  assert.equal(after[3], end[3]);
});

test("a reference link is resolved in its own answer only", () => {
  assert.match(html("See [the plan].\n\n[the plan]: https://good.example/"), /href="https:\/\/good\.example\/"/);
  assert.match(html("See [the plan].\n\n[the plan]: https://evil.example/"), /href="https:\/\/evil\.example\/"/);
  assert.doesNotMatch(html("See [the plan]."), /href/);
});

test("what is nested without measure is shown as text", () => {
  for (const bomb of ["> ".repeat(3000), "- ".repeat(3000) + "x", "1. ".repeat(500) + "x", "> - ".repeat(40) + "x", "[".repeat(20_000), "*".repeat(20_000) + "a", "`".repeat(9_999), "**a ".repeat(3000), "![".repeat(5000), "_a ".repeat(3000), "<a ".repeat(3000), "\\(".repeat(3000), "$".repeat(3001), "[^1]: ".repeat(2000), "| a ".repeat(3000) + "\n" + "|-".repeat(3000)]) {
    const began = performance.now();
    const growing = reader();
    growing.blocks(bomb, true);
    const found = growing.blocks(bomb, false);
    const all = found.map((block) => (block.kind === "plain" ? block.text : block.kind === "html" ? block.html : block.code)).join("");
    assert.ok(all.length > 0 && performance.now() - began < 10_000, `${bomb.slice(0, 12)} took ${performance.now() - began} ms`);
  }
  assert.deepEqual(whole("> ".repeat(3000)), [{ kind: "plain", key: "plain", text: "> ".repeat(3000) }]);
  assert.match(html("> > > as people write it"), /<blockquote>\s*<blockquote>\s*<blockquote>/);
});

test("task lists and aligned columns", () => {
  assert.match(html("- [x] done\n- [ ] open"), /<input checked="" disabled="" type="checkbox">.*done[\s\S]*<input disabled="" type="checkbox">.*open/);
  assert.match(html("| a | b |\n|:-:|--:|\n| 1 | 2 |"), /<th align="center">a<\/th>\s*<th align="right">b<\/th>/);
});

test("footnotes are numbered as they are referred to, and only those that are there", () => {
  const text = "One[^b] and two[^a], again[^b], none[^zz].\n\n[^a]: The *a*.\n[^b]: The b\n  goes on.\n";
  const found = html(text);
  assert.match(found, /One<sup><button[^>]*data-to-note="1"/);
  assert.match(found, /two<sup><button[^>]*data-to-note="2"/);
  assert.match(found, /none\[\^zz\]/);
  assert.match(found, /<ol class="notes"><li value="1" data-note="1">The b\ngoes on\.<\/li><li value="2" data-note="2">The <em>a<\/em>\.<\/li><\/ol>/);
  assert.match(html("Text.\n\n[^x]: Nobody refers to *me*."), /<p>\[\^x\]: Nobody refers to <em>me<\/em>\.<\/p>/);
});

test("formulas are set, money is not, and what is no TeX stays as it was written", () => {
  assert.match(html("It is $x^2$ here.", setMath), /It is <math><msup><mi>x<\/mi><mn[^>]*>2<\/mn><\/msup><\/math> here/);
  assert.match(html("$$\n\\frac{a}{b}\n$$", setMath), /<math display="block"/);
  assert.match(html("\\[ a \\]", setMath), /<math display="block"/);
  assert.match(html("so \\(a_1\\) it is", setMath), /<msub>/);
  for (const money of ["It costs $5 and then $10.", "US$5 or US$6", "$5, $6 and $ 7"]) assert.doesNotMatch(html(money, setMath), /<math|class="tex"/);
  assert.match(html("$\\oops{$ and on", setMath), /<code class="tex">/);
  assert.match(html("$a<b$", noMath), /<code class="tex">a&#60;b<\/code>/);
  assert.doesNotMatch(html("$\\href{javascript:alert(1)}{x}$", setMath), /href=/);
  assert.doesNotMatch(html("$$\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}\\color{red}{x}$$", setMath), /style=/);
  assert.match(html('$\\text{ style="a" }$', setMath), /style=&quot;a&quot;/);
  assert.match(html("`$x$`", setMath), /<code>\$x\$<\/code>/);
});

test("raw HTML is text, images are links", () => {
  assert.doesNotMatch(html('<img src=x onerror="x()"><script>x()</script>\n\n<div>block</div>'), /<(?:img|script|div)/);
  assert.match(html("![a picture](https://example.org/x.png)"), /<a href="https:&#47;?.*a picture<\/a>|<a href="https:\/\/example\.org\/x\.png">a picture<\/a>/);
});

test("code is coloured in the languages that are known", () => {
  assert.match(highlight("def f():\n    return 'x'", "python")!, /hljs-keyword/);
  assert.match(highlight("const a = 1;", "ts")!, /hljs-keyword/);
  assert.match(highlight("a = 1", "toml")!, /hljs-attr/);
  assert.equal(highlight("x", "nosuch"), null);
  assert.doesNotMatch(highlight("<script>alert(1)</script>", "python")!, /<script/);
});
