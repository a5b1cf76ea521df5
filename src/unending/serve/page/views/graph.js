import { count } from "../app/format.js";
import { html } from "../app/html.js";

/** The newest graph that the system has learned, as Graphviz text to look at and to keep. */
export function Graph({ text }) {
  if (!text) return null;
  const unlabelled = text.replace(/"(?:[^"\\]|\\.)*"/gs, ""); // a label may hold an arrow
  const edges = unlabelled.match(/->|--/g)?.length ?? 0;
  const href = `data:text/vnd.graphviz;charset=utf-8,${encodeURIComponent(text)}`;
  return html`
    <section class="card outputs" aria-label="Graph learned">
      <details>
        <summary>Graph learned, ${count(edges)} edges</summary>
        <pre class="small">${text}</pre>
      </details>
      <a class="small" href=${href} download="learned.dot">Keep as learned.dot</a>
    </section>
  `;
}
