/** Runs before the first paint, so that no other theme flashes. */

import { follow } from "../../chat/ui/theme.ts";

follow();
