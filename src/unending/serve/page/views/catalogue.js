import { bytes, plural } from "../app/format.js";
import { html } from "../app/html.js";

function Paper({ system }) {
  const known = /^\d{4}\.\d{4,5}$/.test(system.arxiv ?? "");
  if (!known) return system.paper ? html`<p class="paper">${system.paper}</p>` : null;
  return html`
    <p class="paper">
      <a href=${`https://arxiv.org/abs/${system.arxiv}`} target="_blank" rel="noopener noreferrer">${system.paper}</a>
    </p>
  `;
}

function Kinds({ label, kinds }) {
  return html`
    <div>
      <dt>${label}</dt>
      <dd>${(kinds ?? []).map((kind) => html`<span class="kind">${kind}</span>`)}</dd>
    </div>
  `;
}

function Served({ system, start }) {
  return html`
    <li class="card system-card">
      <h3>${system.name}</h3>
      <p>${system.title}</p>
      <dl class="facts">
        <${Kinds} label="takes" kinds=${system.takes} />
        <${Kinds} label="gives" kinds=${system.gives} />
        <div>
          <dt>holds at most</dt>
          <dd>${Number.isFinite(system.bound) ? `${bytes(system.bound)} a session` : system.bound}</dd>
        </div>
        <div>
          <dt>exactness</dt>
          <dd>${system.exactness}</dd>
        </div>
        <div>
          <dt>slots</dt>
          <dd>${plural(system.slots ?? 0, "session")} at once</dd>
        </div>
      </dl>
      <${Paper} system=${system} />
      <p><button onClick=${() => start(system.name)}>Start a session</button></p>
    </li>
  `;
}

function Other({ system }) {
  return html`<li><strong>${system.name}</strong> <span>${system.title}</span></li>`;
}

/** The systems that this server runs, and the rest of the catalogue in grey. */
export function Catalogue({ value, error, start }) {
  const systems = value ?? [];
  const served = systems.filter((system) => system.served);
  const others = systems.filter((system) => !system.served);
  return html`
    <section aria-labelledby="systems-title">
      <h2 id="systems-title" class="section-title">Systems</h2>
      ${
        !value &&
        error &&
        error.code !== "unauthorized" &&
        html`<p class="empty">The catalogue cannot be shown: ${error.message}.</p>`
      }
      <ul class="cards">
        ${served.map((system) => html`<${Served} key=${system.name} system=${system} start=${start} />`)}
      </ul>
      ${
        others.length > 0 &&
        html`
        <h3 class="others-title">In the catalogue, not served here</h3>
        <ul class="others">
          ${others.map((system) => html`<${Other} key=${system.name} system=${system} />`)}
        </ul>
      `
      }
    </section>
  `;
}
