import { newClient } from "../app/clients.js";
import { html, useState } from "../app/html.js";
import { server } from "../app/http.js";
import { openSession } from "../app/route.js";
import { FormDialog, NAME, NAME_RULE } from "./dialog.js";

const freshName = () => `stream-${Math.random().toString(36).slice(2, 6)}`;

/** Opens a session, empty or from the file of a snapshot. */
export function NewSession({ systems, first, taken, close }) {
  const [system, setSystem] = useState(first || systems[0].name);
  const [name, setName] = useState(freshName);
  const [seed, setSeed] = useState("0");
  const [file, setFile] = useState(null);
  const act = async () => {
    if (taken.some((each) => each.system === system && each.session === name)) {
      throw new Error(`${system} has a session "${name}" already.`);
    }
    if (file) await server.restore(system, name, file);
    else newClient(system, name, Number(seed));
    openSession(system, name);
  };
  const into = (set) => (event) => set(event.target.value);
  return html`
    <${FormDialog} title="New session" verb="Open" act=${act} close=${close}>
      <label for="new-system">System</label>
      <select id="new-system" value=${system} onChange=${into(setSystem)}>
        ${systems.map((each) => html`<option value=${each.name}>${each.name}</option>`)}
      </select>
      <label for="new-name">Name</label>
      <input
        id="new-name"
        required
        pattern=${NAME}
        title=${NAME_RULE}
        value=${name}
        spellcheck="false"
        autocomplete="off"
        onInput=${into(setName)}
      />
      <label for="new-seed">Seed <span class="muted">of its randomness</span></label>
      <input
        id="new-seed"
        type="number"
        min="0"
        step="1"
        required
        value=${seed}
        disabled=${Boolean(file)}
        onInput=${into(setSeed)}
      />
      <label for="new-file">Snapshot <span class="muted">to go on from, if any</span></label>
      <input id="new-file" type="file" onChange=${(event) => setFile(event.target.files[0] ?? null)} />
    <//>
  `;
}
