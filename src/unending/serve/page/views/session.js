import { clientOf } from "../app/clients.js";
import { html, useEffect, useMemo } from "../app/html.js";
import { server } from "../app/http.js";
import { useObserved } from "../app/observed.js";
import { usePolling } from "../app/polling.js";
import { Actions } from "./actions.js";
import { Composer } from "./composer.js";
import { Graph } from "./graph.js";
import { Meters } from "./meters.js";
import { Outputs } from "./outputs.js";
import { Problem } from "./problem.js";
import { Status } from "./sessions.js";
import { Stream } from "./stream.js";

const HOLD = {
  connecting: "entering the session …",
  held: "held by this page",
  watching: "held by another client, watched here",
  lost: "connection lost, trying again",
  gone: "not on the server",
};

/** One session, live: its stream in and out, its meters, and what can be done with it. */
export function Session({ system, name }) {
  const client = useMemo(() => clientOf(system, name), []);
  useObserved(client);
  useEffect(() => {
    client.enter();
    return () => client.leave();
  }, []);
  const { value: systems } = usePolling((signal) => server.systems(signal), 30_000);
  const entered = client.status === "held" || client.status === "watching";
  const { value: view } = usePolling(
    async (signal) => (entered ? server.session(system, name, signal) : null),
    entered ? 1_000 : 0,
    [entered],
  );
  const about = systems?.find((each) => each.name === system);
  return html`
    <p class="back"><a href="#/">← All sessions</a></p>
    <div class="session-head">
      <div>
        <h1 tabindex="-1">${name}</h1>
        <p class="muted">${system}${about ? ` · ${about.title}` : ""}</p>
        <p class="hold ${client.status}">
          ${view && html`<${Status} status=${view.status} />`}
          <span>${HOLD[client.status]}</span>
          ${
            client.status === "watching" &&
            html`<button class="small" onClick=${() => client.takeOver()}>
            ${view && !view.held ? "Hold it" : "Take it over"}
          </button>`
          }
        </p>
      </div>
      <${Actions} client=${client} />
    </div>
    <div class="session">
      <div class="session-stream">
        <${Stream} client=${client} />
        <${Problem} client=${client} />
        <${Composer} client=${client} takes=${about?.takes ?? []} />
        <${Outputs} series=${client.series} />
        <${Graph} text=${client.graph} />
      </div>
      <${Meters} view=${view} bound=${about?.bound} />
    </div>
    <p class="unseen" role="status">${client.saying}</p>
  `;
}
