import { compact, count } from "../app/format.js";
import { html } from "../app/html.js";
import { useObserved } from "../app/observed.js";
import { Plot } from "./plot.js";

/** Rows that come out, against stream position: the first column is the metric, the others stand below it. */
export function Outputs({ series }) {
  useObserved(series);
  if (series.positions.length < 2) return null;
  const more =
    series.width > series.columns.length ? `, first ${series.columns.length} of ${series.width} columns` : "";
  const averaged = series.stride > 1 ? `; each point is the mean of ${count(series.stride)}` : "";
  return html`
    <section class="card outputs" aria-label="Rows out">
      ${series.columns.map(
        (column, index) => html`
          <${Plot}
            key=${index}
            title=${series.names[index]}
            positions=${series.positions}
            columns=${[column]}
            format=${compact}
            height=${index ? 90 : 180}
          />
        `,
      )}
      <p class="muted small">
        ${count(series.rows)} rows${more}${averaged}
      </p>
    </section>
  `;
}
