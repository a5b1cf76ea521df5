import { readDot } from "../app/dot.js";
import { plural } from "../app/format.js";
import { html, useMemo } from "../app/html.js";
import { Graph as Layered, layout } from "../vendor/dagre.js";

const MOST = 120; // nodes that are drawn
const WIDE = 740; // pixels that a card has room for
const LETTER = { node: 6.6, edge: 5.8 };
const LINE = { node: 15, edge: 13 };

function size(label, kind, room) {
  const lines = label ? label.split("\n") : [];
  const longest = Math.max(0, ...lines.map((line) => line.length));
  return { lines, width: longest * LETTER[kind] + room, height: lines.length * LINE[kind] + room };
}

/** Where everything goes, from left to right or, if that is too wide, downwards; null if it would be no picture. */
function placed(source) {
  const graph = readDot(source);
  if (!graph || graph.nodes.size === 0 || graph.nodes.size > MOST) return null;
  const across = layered(graph, "LR");
  return across.graph().width > WIDE ? layered(graph, "TB") : across;
}

function layered(graph, rankdir) {
  const made = new Layered({ directed: true, multigraph: true });
  made.setGraph({ rankdir, nodesep: 18, ranksep: 26, edgesep: 12, marginx: 8, marginy: 8 });
  made.setDefaultEdgeLabel(() => ({}));
  for (const [name, { label, shape, style, peripheries }] of graph.nodes) {
    const point = shape === "point";
    const box = point ? { lines: [], width: 8, height: 8 } : size(label, "node", 16);
    made.setNode(name, { ...box, point, dashed: style === "dashed", double: Number(peripheries) > 1 });
  }
  graph.edges.forEach(({ from, to, label, style }, index) =>
    made.setEdge(from, to, { ...size(label ?? "", "edge", 4), labelpos: "c", dashed: style === "dashed" }, `${index}`),
  );
  layout(made);
  return made;
}

const Lines = ({ x, y, lines, kind }) =>
  lines.map(
    (line, index) => html`
      <text class=${`graph-${kind}`} x=${x} y=${y + (index - (lines.length - 1) / 2) * LINE[kind]}>${line}</text>
    `,
  );

function Node({ x, y, width, height, lines, point, dashed, double }) {
  if (point) return html`<circle class="graph-point" cx=${x} cy=${y} r="4" />`;
  const ring = (room) => html`
    <rect
      class=${dashed ? "graph-state dashed" : "graph-state"}
      x=${x - width / 2 - room} y=${y - height / 2 - room}
      width=${width + 2 * room} height=${height + 2 * room} rx="14"
    />
  `;
  return html`<g>${double && ring(3)}${ring(0)}<${Lines} x=${x} y=${y} lines=${lines} kind="node" /></g>`;
}

function Edge({ points, x, y, lines, dashed }) {
  const way = points.map((point, index) => `${index ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`);
  return html`
    <g>
      <path class=${dashed ? "graph-way dashed" : "graph-way"} d=${way.join(" ")} marker-end="url(#graph-arrow)" />
      <${Lines} x=${x} y=${y} lines=${lines} kind="edge" />
    </g>
  `;
}

/** The newest graph that the system has learned: drawn if it is no larger than can be looked at, and as text. */
export function Graph({ text }) {
  const made = useMemo(() => (text ? placed(text) : null), [text]);
  if (!text) return null;
  const href = `data:text/vnd.graphviz;charset=utf-8,${encodeURIComponent(text)}`;
  const { width, height } = made?.graph() ?? {};
  const said = made && `${plural(made.nodeCount(), "node")}, ${plural(made.edgeCount(), "edge")}`;
  return html`
    <section class="card outputs" aria-label="Graph learned">
      <h2 class="graph-title">Graph learned</h2>
      ${
        made &&
        html`
          <div class="graph" tabindex="0" role="region" aria-label="Drawing of the graph">
            <svg role="img" aria-label=${said} width=${width} height=${height} viewBox="0 0 ${width} ${height}">
              <defs>
                <marker id="graph-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
                  <path class="graph-head" d="M0 0L8 4L0 8z" />
                </marker>
              </defs>
              ${made.edges().map((edge) => html`<${Edge} ...${made.edge(edge)} />`)}
              ${made.nodes().map((name) => html`<${Node} ...${made.node(name)} />`)}
            </svg>
          </div>
          <p class="muted small">${said}</p>
        `
      }
      <details class="small">
        <summary>As text</summary>
        <pre>${text}</pre>
      </details>
      <a class="small" href=${href} download="learned.dot">Keep as learned.dot</a>
    </section>
  `;
}
