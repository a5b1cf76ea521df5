import { bytes, compact, count, rate, seconds } from "../app/format.js";
import { html } from "../app/html.js";
import { Plot } from "./plot.js";

function Meter({ label, value, more }) {
  return html`
    <div>
      <dt>${label}</dt>
      <dd>${value} ${more && html`<span class="muted">${more}</span>`}</dd>
    </div>
  `;
}

/** What the session costs, now and against stream position. */
export function Meters({ view, bound }) {
  if (!view)
    return html`<aside class="meters" aria-label="Meters"><p class="muted">No measurements yet.</p></aside>`;
  const { history } = view;
  const positions = history.map((point) => point[0]);
  const drawn = (title, column, format, ceiling) =>
    html`<${Plot}
      title=${title}
      positions=${positions}
      columns=${[history.map((point) => point[column])]}
      format=${format}
      ceiling=${ceiling}
      fromZero
    />`;
  return html`
    <aside class="meters" aria-label="Meters">
      <dl class="facts">
        <${Meter} label="position" value=${count(view.position)} />
        <${Meter} label="lag" value=${compact(view.lag)} />
        <${Meter} label="rate" value=${rate(view.rate)} more="of compute" />
        <${Meter} label="latency" value=${seconds(view.latency_p50)} more=${`p99 ${seconds(view.latency_p99)}`} />
        <${Meter}
          label="state"
          value=${bytes(view.state_bytes)}
          more=${Number.isFinite(bound) && `of ${bytes(bound)}`}
        />
        <${Meter} label="queues" value=${`${bytes(view.queued_bytes)} in`} more=${`${bytes(view.outbox_bytes)} out`} />
        <${Meter} label="in / out" value=${`${count(view.in_seq)} / ${count(view.out_seq)}`} />
        <${Meter} label="ticks" value=${count(view.ticks)} />
        ${
          (view.shed > 0 || view.faults > 0) &&
          html`<${Meter} label="shed / faults" value=${`${count(view.shed)} / ${count(view.faults)}`} />`
        }
      </dl>
      ${
        history.length > 1 &&
        html`
        ${drawn("State", 4, bytes, bound)} ${drawn("Latency", 3, seconds)} ${drawn("Lag", 1, compact)}
        <p class="muted small">Against stream position. Flat means that the stream costs no more as it grows.</p>
      `
      }
    </aside>
  `;
}
