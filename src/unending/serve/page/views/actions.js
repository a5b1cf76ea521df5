import { forgetClient } from "../app/clients.js";
import { html, useState } from "../app/html.js";
import { server } from "../app/http.js";
import { goHome, openSession } from "../app/route.js";
import { FormDialog, NAME, NAME_RULE } from "./dialog.js";

function download(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function Fork({ client, close }) {
  const [to, setTo] = useState(`${client.name}-fork`.slice(0, 100));
  const act = async () => {
    await server.fork(client.system, client.name, to);
    openSession(client.system, to);
  };
  return html`
    <${FormDialog} title="Fork this session" verb="Fork" act=${act} close=${close}>
      <p>A second session with the same state. From here on the two know nothing of each other.</p>
      <label for="fork-name">Name of the fork</label>
      <input
        id="fork-name"
        required
        pattern=${NAME}
        title=${NAME_RULE}
        spellcheck="false"
        autocomplete="off"
        value=${to}
        onInput=${(event) => setTo(event.target.value)}
      />
    <//>
  `;
}

function Delete({ client, close }) {
  const act = async () => {
    await server.remove(client.system, client.name);
    goHome();
    forgetClient(client.system, client.name);
  };
  return html`
    <${FormDialog} title="Delete ${client.name}?" verb="Delete" danger act=${act} close=${close}>
      <p>
        Its state, its journal and its snapshots on the server are gone for good. A snapshot that you downloaded stays.
      </p>
    <//>
  `;
}

function Finish({ client, close }) {
  return html`
    <${FormDialog} title="Finish the stream?" verb="Finish" act=${() => client.finish()} close=${close}>
      <p>What the system still holds back comes out. After that nothing more can be pushed.</p>
    <//>
  `;
}

const DIALOGS = { fork: Fork, delete: Delete, finish: Finish };

export function Actions({ client }) {
  const [open, setOpen] = useState(null);
  const [problem, setProblem] = useState("");
  const held = client.status === "held";
  const there = held || client.status === "watching";
  const snapshot = async () => {
    setProblem("");
    try {
      download(await server.snapshot(client.system, client.name), `${client.system}.${client.name}.snapshot`);
    } catch (error) {
      setProblem(`No snapshot: ${error.message}.`);
    }
  };
  const Open = DIALOGS[open];
  return html`
    <div class="actions">
      <div class="buttons" role="group" aria-label="Actions">
        <button disabled=${!there} onClick=${() => setOpen("fork")}>Fork</button>
        <button disabled=${!held} onClick=${() => client.save()}>Save now</button>
        <button disabled=${!there} onClick=${snapshot}>Download snapshot</button>
        <button disabled=${!held || client.finished} onClick=${() => setOpen("finish")}>Finish</button>
        <button class="danger" disabled=${!there} onClick=${() => setOpen("delete")}>Delete</button>
      </div>
      <p class="problem" role="alert">${problem}</p>
      ${Open && html`<${Open} client=${client} close=${() => setOpen(null)} />`}
    </div>
  `;
}
