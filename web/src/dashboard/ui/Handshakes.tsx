/** Handshakes: outcomes and reasons, failures and bypass, latency, breakers, refusals. */

import type { JSX } from "preact";
import { useMemo } from "preact/hooks";

import type { Console } from "../console.ts";
import { rate, seconds } from "../format.ts";
import { countsOver, lineOf, linesBy, quantilesOf, shareOf } from "../history.ts";
import { HeatMap } from "./HeatMap.tsx";
import { Plot } from "./Plot.tsx";
import { Refusals } from "./Refusals.tsx";
import { Timeline } from "./Timeline.tsx";

const users = (one: string[]): boolean => one[2] !== "probe";
const BREAKER = ["closed", "half open", "open"];

export function Handshakes({ app }: { app: Console }): JSX.Element {
  const history = app.history.value;
  const bounds = app.fleet.buckets["handshake_seconds"] ?? [];
  const lines = useMemo(() => {
    const all = lineOf(history, "counters", "handshakes", "all", users);
    const refused = lineOf(history, "counters", "handshakes", "refused", (one) => users(one) && one[0] === "refused");
    const bypass = lineOf(history, "counters", "handshakes", "bypass", (one) => one[0] === "admitted" && one[2] === "e2e");
    return {
      outcomes: linesBy(history, "counters", "handshakes", 0, { fits: users, order: ["admitted", "refused"] }),
      reasons: linesBy(history, "counters", "handshakes", 1, { fits: (one) => users(one) && one[0] === "refused" }),
      shares: [shareOf(refused, all, "refused"), shareOf(bypass, all, "test identities")],
      quantiles: quantilesOf(history, "handshake_seconds", bounds),
      counts: countsOver(history, "handshake_seconds"),
      carriers: linesBy(history, "counters", "credential_extractions", 0),
      breakers: Object.keys(history.peaks).filter((key) => key.startsWith("breaker_state|")).sort().map((key) => ({ label: key.split("|").slice(1).join(", "), values: history.peaks[key]! })),
    };
  }, [history, bounds]);
  const share = (value: number): string => `${value.toFixed(value < 10 ? 1 : 0)} %`;
  return (
    <>
      <div class="panels">
        <Plot title="Handshakes by outcome" at={history.at} lines={lines.outcomes} format={rate} />
        <Plot title="Refusals by reason" at={history.at} lines={lines.reasons} format={rate} stacked />
        <Plot title="Refused, and admitted as test identities" hint="Share of all handshakes" at={history.at} lines={lines.shares} format={share} />
        <Plot title="Credentials by carrier" at={history.at} lines={lines.carriers} format={rate} />
        <Plot title="Handshake latency" hint="From the request head to the decision" at={history.at} lines={lines.quantiles} format={seconds} />
        <HeatMap title="Handshake latency, all of them" at={history.at} bounds={bounds} counts={lines.counts} />
      </div>
      <Timeline title="Circuit breakers" hint="The worst state of any instance" at={history.at} lines={lines.breakers} states={BREAKER} />
      <Refusals app={app} most={100} />
    </>
  );
}
