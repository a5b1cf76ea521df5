import { html, useEffect, useState } from "../app/html.js";
import { useObserved } from "../app/observed.js";

/** Seconds until `time` of performance.now(), counted down. */
function useCountdown(time) {
  const [, draw] = useState(0);
  useEffect(() => {
    if (!time) return undefined;
    const timer = setInterval(() => draw((count) => count + 1), 250);
    return () => clearInterval(timer);
  }, [time]);
  return Math.max(0, Math.ceil((time - performance.now()) / 1000));
}

/** The one line that says what is wrong, and the button that does something about it. */
export function Problem({ client }) {
  const inputs = useObserved(client.inputs);
  const left = useCountdown(inputs.busyUntil);
  const { problem } = client;
  return html`
    <div class="problem-line" role="alert">
      ${
        inputs.busy
          ? html`<p class="problem">
            <span>
              The server is busy. Your input waits here and is sent
              again<span aria-hidden="true"> in ${left} s</span>.
            </span>
            <button class="small" onClick=${() => inputs.retry()}>Try now</button>
          </p>`
          : problem &&
            html`<p class="problem">
            <span>${problem.text}</span>
            ${problem.act && html`<button class="small" onClick=${problem.act}>${problem.action}</button>`}
            <button class="small quiet" onClick=${() => client.dismiss()}>Dismiss</button>
          </p>`
      }
    </div>
  `;
}
