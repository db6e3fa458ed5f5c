/** Light or dark: the system's wish unless this person chose. `boot.ts` follows both from before the first paint. */

const KEY = "narthex.theme";

export type Theme = "light" | "dark";

/** What this person chose; null when the system's wish counts. */
function chosen(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null;
  }
}

const wish = matchMedia("(prefers-color-scheme: dark)");

/** What the page is coloured in. */
export function current(): Theme {
  return document.documentElement.dataset["theme"] === "dark" ? "dark" : "light";
}

/** Colour the page, now and whenever the system's wish changes. */
export function follow(): void {
  const colour = (): void => apply(chosen() ?? (wish.matches ? "dark" : "light"));
  colour();
  wish.addEventListener("change", colour);
}

function apply(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
}

export function toggle(): Theme {
  const next: Theme = current() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Storage is off: the choice lasts as long as the page.
  }
  apply(next);
  return next;
}
