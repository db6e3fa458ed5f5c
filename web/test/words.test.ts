import assert from "node:assert/strict";
import test from "node:test";

import { dateGroup } from "../src/chat/ui/words.ts";

test("threads are grouped by day, week and month, as the calendar has them", () => {
  const now = new Date(2026, 10, 29, 0, 30).getTime();
  const group = (...parts: [number, number, number, number?, number?]): string => dateGroup(new Date(...parts).getTime(), now);
  assert.equal(group(2026, 10, 29, 0, 10), "Today");
  assert.equal(group(2026, 10, 28, 23, 50), "Yesterday");
  assert.equal(group(2026, 10, 28, 0, 0), "Yesterday");
  assert.equal(group(2026, 10, 27, 23, 59), "Previous 7 days");
  assert.equal(group(2026, 10, 22, 0, 0), "Previous 7 days");
  assert.equal(group(2026, 10, 21, 12), "Previous 30 days");
  assert.match(group(2026, 8, 3), /2026/);
  assert.match(group(2025, 8, 3), /2025/);
});
