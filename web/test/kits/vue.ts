/** A page with the composables for Vue, over one connection; what `react.tsx` is for React. */

import { Centrifuge } from "centrifuge";
import { createApp, defineComponent, h, ref, type VNode } from "vue";

import { narthexWebSocket } from "@narthex/client";
import { usePresence, useRun, useThread } from "@narthex/client/vue";

const wishes = new URLSearchParams(location.search);
const getToken = (): string => wishes.get("token") ?? "";
const client = new Centrifuge(wishes.get("ws") ?? "", { websocket: narthexWebSocket({ getToken, onRefused: (refusal) => console.error(refusal.title) }) });
client.on("error", ({ error }) => console.error(error.message));
client.connect();
(window as unknown as { client: Centrifuge }).client = client;

const Answer = defineComponent({
  props: { threadId: { type: String, required: true }, runId: { type: String, required: true } },
  setup(props) {
    const { run, active, cancel, answer } = useRun(client, () => props.threadId, () => props.runId);
    return () => {
      const { view, complete } = run.value ?? {};
      return h("article", { "data-phase": view?.phase, "data-complete": String(complete) }, [
        view?.parts.map((part): VNode => (part.kind === "text" ? h("p", part.text) : h("em", part.kind))),
        view?.interrupts.map((question) => [
          h("legend", question.message),
          h("button", { onClick: () => void answer(question.id, { approved: true }) }, "Yes"),
        ]),
        active.value ? h("button", { onClick: () => void cancel() }, "Stop") : null,
      ]);
    };
  },
});

const Page = defineComponent(() => {
  const threadId = ref(wishes.get("thread"));
  const text = ref("");
  const { state, send, typing } = useThread(client, threadId);
  const presence = usePresence(client, threadId);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    const said = text.value;
    text.value = "";
    threadId.value = (await send(said)).threadId;
  };
  const typed = (event: Event): void => {
    text.value = (event.target as HTMLInputElement).value;
    typing();
  };
  return () =>
    h("main", { "data-status": state.value.status, "data-thread": threadId.value }, [
      state.value.items.map((item) =>
        item.kind === "message"
          ? h("blockquote", { key: item.id }, item.text)
          : h(Answer, { key: item.id, threadId: threadId.value!, runId: item.id }),
      ),
      h("p", { id: "users" }, presence.value.users.map((user) => user.name).join(", ")),
      h("p", { id: "typing" }, presence.value.typing.map((user) => user.name).join(", ")),
      h("form", { onSubmit: (event: Event) => void submit(event) }, [
        h("input", { "aria-label": "Message", value: text.value, onInput: typed }),
        h("button", "Send"),
      ]),
    ]);
});

const app = createApp(Page);
(window as unknown as { leave: () => void }).leave = () => app.unmount();
app.mount("#root");
