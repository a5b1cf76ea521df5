const KEPT = 256; // outputs
const KEPT_SIZE = 1_000_000; // characters
const PAUSE = 200; // ms between two acknowledgements

/**
 * Acknowledges outputs late: the newest ones stay on the server, so that a reloaded page, or the client that comes
 * back for its session, gets them again.
 */
export class Received {
  #kept = []; // [number, size]
  #size = 0;
  #due = -1;
  #timer = 0;
  #acknowledge;

  /** `acknowledge(seq)` says that the outputs up to this number are no longer needed. */
  constructor(acknowledge) {
    this.#acknowledge = acknowledge;
  }

  add(seq, size) {
    this.#kept.push([seq, size]);
    this.#size += size;
    while (this.#kept.length > KEPT || this.#size > KEPT_SIZE) {
      const [old, its] = this.#kept.shift();
      this.#size -= its;
      this.#due = old;
      this.#timer ||= setTimeout(() => this.#send(), PAUSE);
    }
  }

  #send() {
    this.#timer = 0;
    this.#acknowledge(this.#due);
  }
}
