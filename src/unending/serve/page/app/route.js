import { Observed } from "./observed.js";

/** Where the page is: `#/` or `#/session/<system>/<name>`. */
class Route extends Observed {
  constructor() {
    super();
    addEventListener("hashchange", () => this.changed());
  }

  get session() {
    const [view, system, name, ...rest] = location.hash.slice(2).split("/");
    if (view !== "session" || !system || !name || rest.length) return null;
    try {
      return { system: decodeURIComponent(system), name: decodeURIComponent(name) };
    } catch {
      return null;
    }
  }
}

export const route = new Route();

export const sessionLink = (system, name) =>
  `#/session/${encodeURIComponent(system)}/${encodeURIComponent(name)}`;

export const openSession = (system, name) => {
  location.hash = sessionLink(system, name);
};

export const goHome = () => {
  location.hash = "#/";
};
