import { compact } from "../app/format.js";
import { html, useEffect, useRef } from "../app/html.js";
import { useObserved } from "../app/observed.js";
import { colour, theme } from "../app/theme.js";
import UPlot from "../vendor/uplot.js";

const LINES = ["accent", "line-2", "line-3", "line-4"];
const FONT = "11px system-ui, sans-serif";

function axis(format, extra) {
  return {
    stroke: colour("muted"),
    font: FONT,
    ticks: { show: false },
    grid: { stroke: colour("rule"), width: 1 },
    values: (_, marks) => marks.map((mark) => (mark === null ? "" : format(mark))),
    ...extra,
  };
}

/** uPlot's own range leaves out points that share the last position. */
function range(lines, fromZero) {
  let [low, high] = [fromZero ? 0 : Infinity, -Infinity];
  for (const value of lines.flat()) {
    if (value === null) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!Number.isFinite(high)) [low, high] = [0, 1];
  if (high === low) high = low + (Math.abs(low) || 1);
  const room = 0.1 * (high - low);
  return [fromZero ? 0 : low - room, high + 2 * room];
}

function options({ width, height, columns, names, format, ceiling, scale, read }) {
  const lines = columns.map((_, index) => ({
    label: names?.[index],
    stroke: colour(LINES[index]),
    width: 1.5,
    points: { show: false },
  }));
  const limit = { stroke: colour("muted"), width: 1, dash: [4, 4], points: { show: false } };
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { time: false },
      y: { range: scale },
    },
    axes: [axis(compact, { size: 26, space: 56 }), axis(format, { size: 64, space: 34 })],
    series: [{}, ...lines, ...(ceiling ? [limit] : [])],
    hooks: { setCursor: [(chart) => read(chart.cursor.idx)] },
    padding: [8, 8, 0, 0],
  };
}

/** Where a ceiling is so far above the values that it would press them to the floor it is left out. */
function near(ceiling, columns) {
  const top = Math.max(0, ...columns.flat());
  return Number.isFinite(ceiling) && ceiling <= 4 * top ? ceiling : 0;
}

/** Lines against stream position, with the value under the pointer in the caption. */
export function Plot({ title, positions, columns, names, format, ceiling, fromZero, height = 120 }) {
  useObserved(theme);
  const box = useRef(null);
  const chart = useRef(null);
  const reading = useRef(null);
  const latest = useRef(null);
  const limit = near(ceiling, columns);
  const data = [positions, ...columns, ...(limit ? [positions.map(() => limit)] : [])];
  latest.current = data;
  const accent = colour("accent");

  const values = (index) =>
    columns
      .map((_, line) => latest.current[line + 1][index])
      .map((value) => (value == null ? "–" : format(value)));
  const read = (index) => {
    const at = index ?? latest.current[0].length - 1;
    const where = index == null ? "" : ` at ${compact(latest.current[0][at])}`;
    if (reading.current) reading.current.textContent = values(at).join(" · ") + where;
  };

  useEffect(() => {
    const width = box.current.clientWidth;
    const scale = () => range(latest.current.slice(1), fromZero);
    const settings = options({ width, height, columns, names, format, ceiling: limit, scale, read });
    chart.current = new UPlot(settings, latest.current, box.current);
    const observer = new ResizeObserver(([entry]) =>
      chart.current.setSize({ width: Math.floor(entry.contentRect.width), height }),
    );
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      chart.current.destroy();
    };
  }, [accent, columns.length, Boolean(limit), height]);

  useEffect(() => {
    chart.current.setData(latest.current);
    read(null);
  });

  const spoken = `${title} from stream position ${compact(positions[0])} to ${compact(positions.at(-1))}`;
  return html`
    <figure class="plot">
      <figcaption>
        <span>${title}</span>
        ${
          columns.length > 1 &&
          names.map((name, index) => html`<span class="key line-${index}">${name}</span>`)
        }
        <span class="reading" ref=${reading}></span>
      </figcaption>
      <div class="plot-box" ref=${box} role="img" aria-label=${spoken}></div>
    </figure>
  `;
}
