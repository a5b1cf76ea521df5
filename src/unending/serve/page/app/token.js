import { Observed } from "./observed.js";

const KEY = "unending-token";

/** The bearer token, kept in this tab's session storage and nowhere else. */
class Token extends Observed {
  wanted = false;
  refused = false;

  get value() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  get headers() {
    return this.value ? { authorization: `Bearer ${this.value}` } : {};
  }

  /** The server answered 401 to `used`. */
  reject(used) {
    if (used !== this.value || this.wanted) return;
    this.refused = Boolean(used);
    this.wanted = true;
    this.changed();
  }

  set(value) {
    sessionStorage.setItem(KEY, value);
    this.wanted = false;
    this.changed();
  }

  forget() {
    sessionStorage.removeItem(KEY);
    this.refused = false;
    this.wanted = true;
    this.changed();
  }
}

export const token = new Token();
