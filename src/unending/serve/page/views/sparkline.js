import { html } from "../app/html.js";

const WIDTH = 100;
const HEIGHT = 26;

/**
 * One column of a session's history against stream position, from 0 up. `ceiling` is drawn as a dashed line when it
 * is near enough to be seen.
 */
export function Sparkline({ history, column, ceiling }) {
  const top = Math.max(...history.map((point) => point[column]), 0);
  const roof = ceiling && ceiling <= 4 * top ? ceiling : 0;
  const height = 1.15 * Math.max(top, roof) || 1;
  const start = history[0]?.[0] ?? 0;
  const span = (history.at(-1)?.[0] ?? 1) - start || 1;
  const y = (value) => (HEIGHT - 1 - (value / height) * (HEIGHT - 2)).toFixed(2);
  const points = history.map(
    (point) => `${(((point[0] - start) / span) * WIDTH).toFixed(2)},${y(point[column])}`,
  );
  return html`
    <svg class="sparkline" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" aria-hidden="true">
      <line class="floor" x1="0" x2=${WIDTH} y1=${HEIGHT - 0.5} y2=${HEIGHT - 0.5} />
      ${roof > 0 && html`<line class="ceiling" x1="0" x2=${WIDTH} y1=${y(roof)} y2=${y(roof)} />`}
      ${points.length > 1 && html`<polyline points=${points.join(" ")} />`}
    </svg>
  `;
}
