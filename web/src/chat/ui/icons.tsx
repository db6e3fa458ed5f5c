/** Line icons, drawn on a 20 × 20 grid in the text's colour. Decorative: what a button does is in its label. */

import type { JSX } from "preact";

const PATHS = {
  arch: "M4 18V9.5a6 6 0 0 1 12 0V18M8 18V10a2 2 0 0 1 4 0v8",
  plus: "M10 4v12M4 10h12",
  search: "M9 3.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 0 1 0-11zM13 13l4 4",
  menu: "M3 6h14M3 10h14M3 14h14",
  close: "M5 5l10 10M15 5L5 15",
  send: "M10 16V4M5 9l5-5l5 5",
  stop: "M6 6h8v8H6z",
  check: "M4 10.5l4 4l8-9",
  copy: "M7 7h9v9H7zM4 13V4h9",
  again: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
  people: "M7.5 9.5a2.75 2.75 0 1 0 0-5.5a2.75 2.75 0 0 0 0 5.5zM2.5 16a5 5 0 0 1 10 0M13 9.2a2.4 2.4 0 1 0-.6-4.7M14.5 12a4.5 4.5 0 0 1 3 4",
  more: "M4 10h.01M10 10h.01M16 10h.01",
  sun: "M10 6.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 0 1 0-7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M15.7 4.3l-1.1 1.1M5.4 14.6l-1.1 1.1",
  moon: "M16 12.2A6.6 6.6 0 0 1 7.8 4a6.6 6.6 0 1 0 8.2 8.2z",
  leave: "M8 4H4v12h4M12 6.5L15.5 10L12 13.5M15 10H8",
  seal: "M10 2.5l2 1.6l2.5-.2l.6 2.5l2.1 1.4l-1 2.3l1 2.3l-2.1 1.4l-.6 2.5l-2.5-.2l-2 1.6l-2-1.6l-2.5.2l-.6-2.5l-2.1-1.4l1-2.3l-1-2.3l2.1-1.4l.6-2.5l2.5.2zM7 10.2l2.1 2.1l4-4.3",
  warn: "M10 3.5l7.5 13h-15zM10 8.5v3.5M10 14.2h.01",
  down: "M10 4v12M5 11l5 5l5-5",
  right: "M8 5l5 5l-5 5",
  tool: "M12.5 3.5a4 4 0 0 0-4.7 5.2L3.5 13v3.5H7l4.3-4.3a4 4 0 0 0 5.2-4.7L14 10l-2.5-.5L11 7z",
  thought: "M6 14.5a4 4 0 0 1-.5-8a4.5 4.5 0 0 1 8.7.6A3.6 3.6 0 0 1 14 14.5zM7 17.5h.01",
  step: "M4 5h12M4 10h8M4 15h10",
  steer: "M4 16v-4a4 4 0 0 1 4-4h8M12.5 4.5L16 8l-3.5 3.5",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }): JSX.Element {
  const heavy = name === "more";
  return (
    <svg class="icon" viewBox="0 0 20 20" width={size} height={size} aria-hidden="true" focusable="false">
      <path d={PATHS[name]} fill="none" stroke="currentColor" stroke-width={heavy ? 2.4 : 1.5} stroke-linecap="round" stroke-linejoin="round" />
    </svg>
  );
}
