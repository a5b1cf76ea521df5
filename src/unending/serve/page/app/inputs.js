import { Observed } from "./observed.js";

/**
 * Chunks on their way into a session, one at a time and in order. A chunk leaves the queue when the server says that
 * it is durable, or refuses it; until then it is sent again after a lost connection, under the same number, so that
 * it is taken in once.
 */
export class Inputs extends Observed {
  waiting = [];
  accepted = 0; // number of the last one that the server has
  busy = false; // from the first refusal until the chunk is taken in
  busyUntil = 0; // performance.now() of the next attempt, 0 while one is under way
  #send;
  #open = false;
  #timer = 0;

  /** `send(chunk, seq)` tells whether it could be sent. */
  constructor(send) {
    super();
    this.#send = send;
  }

  /** Resolves to whether it was shed, once it is durable; rejects with the reason if it was refused. */
  push(chunk) {
    return new Promise((resolve, reject) => {
      this.waiting.push({ chunk, seq: 0, resolve, reject });
      if (this.waiting.length === 1) this.#go();
      this.changed();
    });
  }

  /** The session is held, and the server has the inputs up to `accepted`. */
  opened(accepted) {
    this.#open = true;
    this.accepted = accepted;
    const [head] = this.waiting;
    if (head?.seq && head.seq <= accepted) this.#settle((each) => each.resolve(false));
    this.#again(0);
  }

  lost() {
    this.#open = false;
    this.busy = false;
    this.#again(0);
  }

  acknowledged(seq, shed) {
    this.accepted = Math.max(this.accepted, seq);
    if (this.waiting[0]?.seq === seq) this.#settle((each) => each.resolve(shed));
  }

  /** Whether a refusal of this number is about the chunk that is on its way. */
  sent(seq) {
    return (
      Boolean(this.waiting[0]?.seq) && (seq === undefined || seq === null || this.waiting[0].seq === seq)
    );
  }

  refused(reason) {
    this.#settle((each) => each.reject(reason));
  }

  /** The number was wrong; the server waits for `seq`. */
  expected(seq) {
    this.accepted = seq - 1;
    this.#again(0);
  }

  /** Send it again after so many seconds. */
  later(seconds) {
    this.busy = true;
    this.#again(Math.max(0.05, seconds));
  }

  retry() {
    this.#again(0);
  }

  abandon(reason) {
    clearTimeout(this.#timer);
    this.busy = false;
    this.busyUntil = 0;
    for (const each of this.waiting.splice(0)) each.reject(reason);
    this.changed();
  }

  #settle(how) {
    this.busy = false;
    this.busyUntil = 0;
    how(this.waiting.shift());
    this.#go();
    this.changed();
  }

  #again(seconds) {
    clearTimeout(this.#timer);
    this.busyUntil = seconds ? performance.now() + 1000 * seconds : 0;
    if (seconds) this.#timer = setTimeout(() => this.#again(0), 1000 * seconds);
    else this.#go();
    this.changed();
  }

  #go() {
    const [head] = this.waiting;
    if (!head || !this.#open) return;
    head.seq = this.accepted + 1;
    this.#send(head.chunk, head.seq);
  }
}
