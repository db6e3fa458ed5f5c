/** Runs before the first paint, so that a chosen theme does not flash. */

import { apply, chosen } from "../../chat/ui/theme.ts";

apply(chosen());
