import { WRITTEN } from "../app/chunks.js";
import { plural } from "../app/format.js";
import { html, useEffect, useRef, useState } from "../app/html.js";
import { useObserved } from "../app/observed.js";
import { textPieces, filePieces } from "../app/pieces.js";

function Kinds({ kinds, kind, choose }) {
  return html`
    <fieldset class="kinds">
      <legend class="unseen">What to send</legend>
      ${kinds.map(
        (each) => html`
          <label class="choice">
            <input type="radio" name="kind" value=${each} checked=${each === kind} onChange=${() => choose(each)} />
            <span>${WRITTEN[each].label}</span>
          </label>
        `,
      )}
    </fieldset>
  `;
}

function FileButton({ send, disabled }) {
  const picker = useRef(null);
  const picked = () => {
    const [file] = picker.current.files;
    if (file) send(file);
    picker.current.value = "";
  };
  return html`
    <button type="button" disabled=${disabled} onClick=${() => picker.current.click()}>Push a file …</button>
    <input
      ref=${picker}
      type="file"
      accept="text/*,.txt,.md,.json,.csv"
      hidden
      aria-label="Text file"
      onChange=${picked}
    />
  `;
}

/** Where one writes into the stream. Enter sends, Shift+Enter makes a line, Esc interrupts. */
export function Composer({ client, takes }) {
  const inputs = useObserved(client.inputs);
  const [chosen, setChosen] = useState(null);
  const [text, setText] = useState("");
  const [refusal, setRefusal] = useState("");
  const [file, setFile] = useState(null); // {name, read, size} while one is being pushed
  const stopped = useRef(false);
  useEffect(() => () => (stopped.current = true), []);
  const kinds = Object.keys(WRITTEN).filter((kind) => takes.includes(kind));
  const kind = chosen ?? kinds[0];
  const closed = client.finished || client.status === "watching" || client.status === "gone";
  const interrupt = html`
    <button type="button" disabled=${client.status !== "held"} onClick=${() => client.interrupt()}>Interrupt</button>
  `;
  if (!kinds.length) {
    const others =
      takes.length > 0 && html`<p class="muted">${takes.join(", ")} come in through the API.</p>`;
    return html`<div class="composer">${others}<div class="buttons">${interrupt}</div></div>`;
  }

  const send = async () => {
    if (!text.trim() || closed) return;
    const written = text;
    setRefusal("");
    try {
      const pieces = kind === "Text" ? [...textPieces(written)] : [written];
      const chunks = pieces.map(WRITTEN[kind].make);
      setText("");
      await Promise.all(chunks.map((chunk) => client.push(chunk)));
    } catch (error) {
      setRefusal(error.message);
      setText((now) => now || written);
    }
  };
  const sendFile = async (from) => {
    stopped.current = false;
    setRefusal("");
    try {
      for await (const [piece, read] of filePieces(from)) {
        if (stopped.current) break;
        setFile({ name: from.name, done: Math.round((100 * read) / from.size) });
        await client.push(WRITTEN.Text.make(piece));
      }
    } catch (error) {
      setRefusal(`${from.name}: ${error.message}`);
    }
    setFile(null);
  };
  const key = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") {
      if (client.working) client.interrupt();
      else client.dismiss();
    }
  };

  return html`
    <form class="composer" onSubmit=${(event) => (event.preventDefault(), send())}>
      ${kinds.length > 1 && html`<${Kinds} kinds=${kinds} kind=${kind} choose=${setChosen} />`}
      <label class="unseen" for="written">${WRITTEN[kind].hint}</label>
      <textarea
        id="written"
        rows="3"
        placeholder=${client.finished ? "The session is finished" : WRITTEN[kind].hint}
        aria-describedby="written-help"
        value=${text}
        disabled=${closed}
        onInput=${(event) => setText(event.target.value)}
        onKeyDown=${key}
      ></textarea>
      <p class="problem" role="alert">${refusal}</p>
      <div class="buttons">
        <button class="primary" disabled=${closed || !text.trim()}>${WRITTEN[kind].verb}</button>
        ${interrupt}
        ${takes.includes("Text") && html`<${FileButton} send=${sendFile} disabled=${closed || file !== null} />`}
        ${
          file &&
          html`<span class="pushing">
          ${file.name}, ${file.done} %
          <button type="button" class="small" onClick=${() => (stopped.current = true)}>Stop</button>
        </span>`
        }
        ${
          inputs.waiting.length > 1 &&
          html`<span class="muted small">${plural(inputs.waiting.length, "piece")} on the way</span>`
        }
        <span class="muted small keys" id="written-help">
          Enter sends, Shift+Enter makes a new line, Esc interrupts
        </span>
      </div>
    </form>
  `;
}
