const TOKENS = /"(?:[^"\\]|\\.)*"|->|--|[{}[\];,=]|(?:(?!->|--)[^\s{}[\];,="])+/gs;
const DEFAULTS = ["graph", "node", "edge"];

function text(token) {
  if (!token.startsWith('"')) return token;
  return token
    .slice(1, -1)
    .replace(/\\(.)/gs, (_, letter) => ("nlr".includes(letter) ? "\n" : letter))
    .replaceAll("&amp;", "&")
    .replace(/\n$/, "");
}

/**
 * The nodes and edges of a graph in the part of Graphviz's language that systems write: statements of nodes and edges
 * with attributes, no subgraphs. `null` for anything else.
 */
export function readDot(source) {
  const tokens = source.match(TOKENS) ?? [];
  const begin = tokens.indexOf("{");
  if (begin < 0 || tokens.at(-1) !== "}" || tokens.indexOf("{", begin + 1) >= 0) return null;
  const nodes = new Map();
  const edges = [];
  const node = (name) => {
    if (!nodes.has(name)) nodes.set(name, { label: name });
    return name;
  };
  let at = begin + 1;
  const attributes = () => {
    const found = {};
    while (tokens[at] === "[") {
      for (at += 1; at < tokens.length && tokens[at] !== "]"; at++) {
        if (tokens[at + 1] !== "=") continue;
        found[text(tokens[at])] = text(tokens[at + 2] ?? "");
        at += 2;
      }
      at += 1;
    }
    return found;
  };
  while (at < tokens.length - 1) {
    if (tokens[at] === ";") {
      at += 1;
      continue;
    }
    const names = [text(tokens[at++])];
    if (tokens[at] === "=") {
      at += 2;
      continue;
    }
    while (tokens[at] === "->" || tokens[at] === "--") {
      names.push(text(tokens[at + 1] ?? ""));
      at += 2;
    }
    const found = attributes();
    if (names.length === 1) {
      if (!DEFAULTS.includes(names[0])) nodes.set(node(names[0]), { ...nodes.get(names[0]), ...found });
      continue;
    }
    for (let index = 1; index < names.length; index++)
      edges.push({ from: node(names[index - 1]), to: node(names[index]), ...found });
  }
  return { nodes, edges };
}
