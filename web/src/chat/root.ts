// The path under which the browser reaches the gateway, which a proxy in front of it may remove.
//
// It is what stands before `/static/` in the address of this script: the gateway wrote it into the page.

/** Empty at the root of a host, else like `/chat`. Every path of the gateway's begins with it. */
export const root = rootOf(import.meta.url);

/** The path before `/static/` of a script's address; empty outside of a page. */
export function rootOf(script: string): string {
  const { protocol, pathname } = new URL(script);
  return protocol.startsWith("http") ? pathname.slice(0, Math.max(0, pathname.lastIndexOf("/static/"))) : "";
}
