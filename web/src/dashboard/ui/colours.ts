/** The colours of lines, from the style sheet, as they are in the current scheme. */

export const SERIES = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--s8"] as const;

export function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Colours by meaning, where a label has one. */
const MEANING: Readonly<Record<string, string>> = {
  admitted: "--good-line", refused: "--bad-line", failed: "--bad-line", finished: "--good-line", recovered: "--good-line", lost: "--bad-line", cancelled: "--s3",
};

export function colourNames(labels: readonly string[]): string[] {
  let free = 0;
  return labels.map((label) => MEANING[label] ?? SERIES[free++ % SERIES.length]!);
}
