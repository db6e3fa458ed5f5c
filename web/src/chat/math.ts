/** TeX → MathML, which browsers set themselves: no fonts, no style. Loaded when the first formula is seen. */

import temml from "temml";

/** In text, the writer has escaped the quotes. */
const STYLE = / style="[^"]*"/g;

/** The MathML of a formula; null where it is not valid TeX, which is then shown as it was written. */
export function setMath(tex: string, display: boolean): string | null {
  try {
    // The page's Content-Security-Policy refuses style attributes; what they adjust are paddings of a few points.
    // Bounds: macros that expand for ever, rules of a metre. `trust` off: no links, no classes from a formula.
    const mathml = temml.renderToString(tex, { displayMode: display, throwOnError: true, trust: false, maxExpand: 500, maxSize: [50, 50], annotate: false });
    return mathml.replace(STYLE, "");
  } catch {
    return null;
  }
}
