/** The chat page. */

import { render } from "preact";

import { App } from "../../chat/app.ts";
import { Root } from "../../chat/ui/Root.tsx";
import "./style.css";

const app = new App();
render(<Root app={app} />, document.getElementById("app")!);
app.start();
