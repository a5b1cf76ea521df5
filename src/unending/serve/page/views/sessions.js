import { bytes, compact, count, plural, rate, seconds } from "../app/format.js";
import { html, useEffect, useRef, useState } from "../app/html.js";
import { server } from "../app/http.js";
import { usePolling } from "../app/polling.js";
import { sessionLink } from "../app/route.js";
import { Sparkline } from "./sparkline.js";

const FIRST = 24; // cards drawn before one asks for all

const STATUS = {
  running: "working",
  idle: "idle",
  parked: "parked",
  waiting: "waiting for a slot",
  finished: "finished",
  failed: "failed",
};

export function Status({ status }) {
  return html`<span class="status ${status}">${STATUS[status] ?? status}</span>`;
}

/** Whether the element is on the screen. */
function useVisible(element) {
  const [visible, setVisible] = useState(false);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => setVisible(entry.isIntersecting));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return visible;
}

function Card({ view, bound }) {
  const element = useRef(null);
  const visible = useVisible(element);
  const ask = (signal) => server.session(view.system, view.session, signal);
  const { value } = usePolling(visible ? ask : async () => null, visible ? 3_000 : 0, [visible]);
  const history = useRef([]);
  if (value) history.current = value.history;
  return html`
    <li class="card session-card" ref=${element}>
      <div class="card-head">
        <h2><a class="cover" href=${sessionLink(view.system, view.session)}>${view.session}</a></h2>
        <${Status} status=${view.status} />
      </div>
      <p class="muted">${view.system}${view.held ? " · held by a client" : ""}</p>
      <p class="position"><strong>${count(view.position)}</strong> <span class="muted">stream position</span></p>
      <dl class="strips">
        <${Strip} label="lag" value=${compact(view.lag)} column=${1} history=${history.current} />
        <${Strip} label="latency p99" value=${seconds(view.latency_p99)} column=${3} history=${history.current} />
        <${Strip}
          label="state"
          value=${bytes(view.state_bytes)}
          column=${4}
          history=${history.current}
          ceiling=${bound}
        />
      </dl>
      <p class="muted small">${rate(view.rate)} of compute${view.shed ? ` · ${count(view.shed)} shed` : ""}</p>
    </li>
  `;
}

function Strip({ label, value, column, history, ceiling }) {
  return html`
    <div>
      <dt>${label}</dt>
      <dd>${value}</dd>
      <dd class="drawn"><${Sparkline} history=${history} column=${column} ceiling=${ceiling} /></dd>
    </div>
  `;
}

const matches = (wanted) => (view) =>
  `${view.system} ${view.session} ${view.status}`.toLowerCase().includes(wanted);

function Empty({ value, error }) {
  if (error && error.code !== "unauthorized")
    return html`<p class="empty">Sessions cannot be shown: ${error.message}.</p>`;
  if (!value) return html`<p class="empty">Asking the server …</p>`;
  return html`
    <div class="empty">
      <p><strong>No session yet.</strong></p>
      <p>Start one here, or push a stream from a client: it appears in this place as it happens.</p>
    </div>
  `;
}

/** One card a session, with lag, latency and state bytes drawn against stream position. */
export function Sessions({ value, error, systems }) {
  const [wanted, setWanted] = useState("");
  const [all, setAll] = useState(false);
  if (!value?.length) return html`<${Empty} value=${value} error=${error} />`;
  const bounds = new Map(systems.map((system) => [system.name, system.bound]));
  const found = value.filter(matches(wanted.trim().toLowerCase()));
  const drawn = all ? found : found.slice(0, FIRST);
  return html`
    <p class="muted lead">
      ${plural(value.length, "session")}${error ? ", as they were before the server stopped answering" : ""}. Lag,
      latency and state are drawn against stream position: flat means that an endless stream costs no more as it grows.
    </p>
    ${
      value.length > 6 &&
      html`<p class="finder">
      <label for="find">Find</label>
      <input id="find" type="search" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
    </p>`
    }
    <ul class="cards">
      ${drawn.map(
        (view) =>
          html`<${Card} key=${`${view.system}/${view.session}`} view=${view} bound=${bounds.get(view.system)} />`,
      )}
    </ul>
    ${
      found.length > drawn.length &&
      html`<p><button onClick=${() => setAll(true)}>Show all ${count(found.length)}</button></p>`
    }
    ${found.length === 0 && html`<p class="empty">No session matches.</p>`}
  `;
}
