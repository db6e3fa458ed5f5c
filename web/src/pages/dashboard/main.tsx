/** The operators' dashboard. */

import { render } from "preact";

import { Console } from "../../dashboard/console.ts";
import { Root } from "../../dashboard/ui/Root.tsx";
import "./style.css";

const app = new Console();
render(<Root app={app} />, document.getElementById("app")!);
app.start();
