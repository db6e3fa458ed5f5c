/** HTML from outside → HTML that may be shown: DOMPurify with a closed list of tags and attributes. The only place. */

import DOMPurify from "dompurify";
import type { TrustedHTML } from "trusted-types/lib";

/** HTML that DOMPurify let through; where the browser has Trusted Types, it knows that too. */
export type Safe = TrustedHTML | string;

const PROSE = [
  "a", "b", "blockquote", "br", "button", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "input", "kbd",
  "li", "mark", "ol", "p", "pre", "s", "span", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const MATHS = [
  "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup", "munder",
  "mover", "munderover", "mtable", "mtr", "mtd", "mpadded", "mphantom", "mstyle", "menclose", "mmultiscripts", "mprescripts",
];
const ATTRIBUTES = [
  "href", "title", "start", "value", "align", "type", "checked", "disabled", "target", "rel", "dir", "class", "aria-label",
  "data-note", "data-to-note",
  "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "form", "separator", "symmetric", "movablelimits",
  "accent", "accentunder", "largeop", "lspace", "rspace", "minsize", "maxsize", "width", "height", "depth", "voffset", "linethickness",
  "columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines", "columnspan", "rowspan", "notation",
];
/** Each of these may be in another language than its neighbours, and in one that runs the other way. */
const OWN_DIRECTION = new Set(["P", "LI", "UL", "OL", "H1", "H2", "H3", "H4", "H5", "H6", "TD", "TH", "BLOCKQUOTE"]);
/** Classes that the page has a style for; others are an agent's invention. */
const CLASSES = /^(?:notes|note-mark|tex|tml-display|hljs-[a-z_-]+|language-[\w-]+)$/;

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  }
  // A task list's boxes are the only inputs, and they only show; a footnote's mark is the only button.
  if (node.tagName === "INPUT") {
    if (node.getAttribute("type") === "checkbox") node.setAttribute("disabled", "");
    else node.remove();
  }
  if (node.tagName === "BUTTON" && !node.hasAttribute("data-to-note")) node.remove();
  if (OWN_DIRECTION.has(node.tagName)) node.setAttribute("dir", "auto");
  if (node.tagName === "CODE") node.setAttribute("dir", "ltr");
  const classes = (node.getAttribute("class") ?? "").split(/\s+/).filter((name) => CLASSES.test(name));
  if (classes.length) node.setAttribute("class", classes.join(" "));
  else node.removeAttribute("class");
});

/** What may be shown of some HTML. */
export function clean(html: string): Safe {
  return DOMPurify.sanitize(html, {
    ALLOWED_TAGS: [...PROSE, ...MATHS],
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?|mailto|tel):/i,
    // DOMPurify holds the value of every other attribute against that expression too.
    ADD_URI_SAFE_ATTR: ATTRIBUTES.filter((name) => name !== "href"),
    RETURN_TRUSTED_TYPE: true,
  });
}
