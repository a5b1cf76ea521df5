import { address } from "./http.js";
import { Observed } from "./observed.js";
import { token } from "./token.js";

const SHORTEST = 250; // ms before the first new attempt, doubled with every further one
const LONGEST = 5000;

/**
 * The one WebSocket of the page. It is there while somebody listens, and comes back by itself.
 *
 * A listener has `connected()`, `lost()` and `message(message, size)`; it is told of the messages of its own session.
 */
class Connection extends Observed {
  state = "closed"; // or "connecting", "open", "waiting" (for the next attempt), "refused" (for a token)
  #socket = null;
  #listeners = new Map();
  #delay = SHORTEST;
  #timer = 0;

  constructor() {
    super();
    token.watch(() => !token.wanted && this.retry());
    document.addEventListener(
      "visibilitychange",
      () => !document.hidden && this.state === "waiting" && this.retry(),
    );
  }

  attach(system, name, listener) {
    this.#listeners.set(`${system}/${name}`, listener);
    if (this.state === "open") listener.connected();
    else if (this.state === "closed") this.#connect();
  }

  detach(system, name) {
    this.#listeners.delete(`${system}/${name}`);
    if (this.#listeners.size === 0) this.#close("closed");
  }

  /** Whether it could be sent. */
  send(message) {
    if (this.state !== "open") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Try at once. */
  retry() {
    if (this.state !== "open" && this.#listeners.size) this.#connect();
  }

  #become(state) {
    this.state = state;
    this.changed();
  }

  #close(state) {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#become(state);
  }

  #connect() {
    this.#close("connecting");
    const url = address("v1/sessions");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const used = token.value;
    const socket = (this.#socket = new WebSocket(url));
    socket.onopen = () => {
      if (used) socket.send(JSON.stringify({ type: "auth", token: used }));
      this.#become("open");
      for (const listener of [...this.#listeners.values()]) listener.connected();
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.#socket) return;
      this.#delay = SHORTEST;
      this.#deliver(JSON.parse(data), data.length, used);
    };
    socket.onclose = () => {
      if (socket === this.#socket) this.#lost();
    };
  }

  #deliver(message, size, used) {
    if (message.type === "error" && message.code === "unauthorized") {
      this.#close("refused");
      token.reject(used);
      return;
    }
    if (message.session === undefined) {
      for (const listener of [...this.#listeners.values()]) listener.message(message, size);
      return;
    }
    this.#listeners.get(`${message.system}/${message.session}`)?.message(message, size);
  }

  #lost() {
    const wasOpen = this.state === "open";
    this.#socket = null;
    this.#timer = setTimeout(() => this.retry(), this.#delay * (0.75 + Math.random() / 2));
    this.#delay = Math.min(2 * this.#delay, LONGEST);
    this.#become("waiting");
    if (wasOpen) for (const listener of [...this.#listeners.values()]) listener.lost();
  }
}

export const connection = new Connection();
