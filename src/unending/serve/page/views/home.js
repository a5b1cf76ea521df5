import { html, useState } from "../app/html.js";
import { server } from "../app/http.js";
import { usePolling } from "../app/polling.js";
import { Catalogue } from "./catalogue.js";
import { NewSession } from "./new_session.js";
import { Sessions } from "./sessions.js";

/** The live sessions, and the catalogue below them. */
export function Home() {
  const systems = usePolling((signal) => server.systems(signal), 30_000);
  const sessions = usePolling((signal) => server.sessions(signal), 1_000);
  const [starting, setStarting] = useState(null); // the name of the system to choose first, "" for any
  const served = (systems.value ?? []).filter((system) => system.served);
  return html`
    <section aria-labelledby="sessions-title">
      <div class="section-head">
        <h1 id="sessions-title" tabindex="-1">Live sessions</h1>
        <button class="primary" disabled=${!served.length} onClick=${() => setStarting("")}>New session</button>
      </div>
      <${Sessions} ...${sessions} systems=${systems.value ?? []} />
    </section>
    <${Catalogue} ...${systems} start=${setStarting} />
    ${
      starting !== null &&
      html`<${NewSession}
      systems=${served}
      first=${starting}
      taken=${sessions.value ?? []}
      close=${() => setStarting(null)}
    />`
    }
  `;
}
