/* Keeps the page up to date while a person looks at it. Everything is on the page without it; see page.py. */
(() => {
  const EVERY_MS = 10000, note = document.getElementById("live");
  const one = (root, selector) => root.querySelector(selector);
  // What an element is on this page and on the next one: a link by its address, a list of days by its service.
  const name = (element) => element.tagName + (element.getAttribute("href") ?? one(element.closest("li"), "h3").textContent);
  const named = (root) => [...root.querySelectorAll("a, summary")];
  let failures = 0;

  function show(fresh) {
    if (one(fresh, "style").textContent !== one(document, "style").textContent) return location.reload();
    const before = document.getElementById("main"), after = fresh.getElementById("main");
    const open = new Set(named(before).filter((each) => each.parentElement.open).map(name));
    const focused = before.contains(document.activeElement) ? name(document.activeElement) : "";
    const headline = one(before, "h1").textContent;
    for (const each of named(after)) if (each.tagName === "SUMMARY") each.parentElement.open = open.has(name(each));
    before.replaceWith(after);
    named(after).find((each) => name(each) === focused)?.focus({ preventScroll: true });
    document.title = fresh.title;
    note.textContent = one(after, "h1").textContent === headline ? "" : one(after, "h1").textContent;
    note.className = "unseen";
  }

  async function update() {
    if (!document.hidden && getSelection().isCollapsed) {
      try {
        const answer = await fetch(location.pathname, { cache: "no-cache", signal: AbortSignal.timeout(8000) });
        if (!answer.ok) throw new Error(answer.status);
        show(new DOMParser().parseFromString(await answer.text(), "text/html"));
        failures = 0;
      } catch {
        failures += 1;
        if (failures === 2) {
          note.textContent = note.dataset.stale;
          note.className = "stale";
        }
      }
    }
    wait();
  }

  // Not all visitors at the same moment.
  const wait = () => setTimeout(update, EVERY_MS * (0.8 + 0.4 * Math.random()));
  if (location.protocol.startsWith("http")) wait();
})();
