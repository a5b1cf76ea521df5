import { html, useLayoutEffect, useRef, useState } from "../app/html.js";

/** A modal dialog, open while it is drawn. Esc and the cancel button call `close`. */
export function Dialog({ title, close, children }) {
  const element = useRef(null);
  useLayoutEffect(() => {
    const dialog = element.current;
    dialog.showModal();
    dialog.querySelector("input, select")?.focus();
    return () => dialog.close(); // gives the focus back
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    close();
  };
  return html`
    <dialog ref=${element} aria-labelledby="dialog-title" onCancel=${cancel}>
      <h2 id="dialog-title">${title}</h2>
      ${children}
    </dialog>
  `;
}

/** A form in a dialog. `act()` may throw: its message is shown and the dialog stays. */
export function FormDialog({ title, verb, danger, act, close, children }) {
  const [problem, setProblem] = useState("");
  const [working, setWorking] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setWorking(true);
    setProblem("");
    try {
      await act();
      close();
    } catch (error) {
      setProblem(error.message);
      setWorking(false);
    }
  };
  return html`
    <${Dialog} title=${title} close=${close}>
      <form onSubmit=${submit}>
        ${children}
        <p class="problem" role="alert">${problem}</p>
        <div class="buttons end">
          <button type="button" onClick=${close}>Cancel</button>
          <button class=${danger ? "danger" : "primary"} disabled=${working}>${verb}</button>
        </div>
      </form>
    <//>
  `;
}

export const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,99}";
export const NAME_RULE =
  "Letters, digits, dots, dashes and underscores; a letter or digit first; at most 100.";
