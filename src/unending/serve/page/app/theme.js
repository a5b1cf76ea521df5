import { Observed } from "./observed.js";

const KEY = "unending-theme";
const ORDER = ["auto", "light", "dark"];

/** Light, dark, or as the system has it. */
class Theme extends Observed {
  constructor() {
    super();
    this.#apply(localStorage.getItem(KEY) ?? "auto");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.changed());
  }

  turn() {
    const next = ORDER[(ORDER.indexOf(this.choice) + 1) % ORDER.length];
    localStorage.setItem(KEY, next);
    this.#apply(next);
    this.changed();
  }

  #apply(choice) {
    this.choice = ORDER.includes(choice) ? choice : "auto";
    document.documentElement.dataset.theme = this.choice;
  }
}

export const theme = new Theme();

/** A colour of the style sheet as a canvas needs it. */
export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}
