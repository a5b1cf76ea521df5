import { Observed } from "./observed.js";

export const LIMIT = 40_000; // characters kept; older ones are dropped from the top
const PIECE = 1_000; // characters of one text node
const ENTRIES = 400;
const NAMES = { in: "in", "in-data": "in", question: "question", out: "out", "out-data": "out" };

/**
 * The running text of a session: entries of pieces. An entry's `role` is "in" or "out" (text), "thought" (text that is
 * no answer), "in-data" or "out-data" (lines about other chunks), "question" or "note"; its `name` is what it is called.
 *
 * Text of the same role and name goes on in the same entry. Only the last piece ever changes, and `size` never exceeds `LIMIT`.
 */
export class Transcript extends Observed {
  entries = [];
  draft = "";
  size = 0;
  dropped = 0;
  #next = 0;

  /** Go on in the last entry if it has this role and name, in a new one otherwise. */
  append(role, text, name = NAMES[role]) {
    let last = this.entries.at(-1);
    if (last?.role !== role || last.name !== name) last = this.#begin(role, name);
    this.#fill(last, text);
  }

  /** A new entry. */
  add(role, text, name = NAMES[role]) {
    this.#fill(this.#begin(role, name), text);
  }

  /** An entry that replaces the last one if that has the same role. */
  restate(role, text) {
    const last = this.entries.at(-1);
    if (last?.role === role) this.#forget(this.entries.pop());
    this.add(role, text);
  }

  setDraft(text) {
    this.draft = text.slice(-PIECE);
    this.changed();
  }

  #begin(role, name) {
    const entry = { id: this.#next++, role, name, pieces: [] };
    this.entries.push(entry);
    return entry;
  }

  #forget(entry) {
    for (const piece of entry.pieces) this.size -= piece.text.length;
  }

  #fill(entry, text) {
    if (text.length > LIMIT) {
      this.dropped += text.length - LIMIT;
      text = text.slice(-LIMIT);
    }
    this.size += text.length;
    for (let rest = text; rest;) {
      let piece = entry.pieces.at(-1);
      if (!piece || piece.text.length >= PIECE) {
        piece = { id: this.#next++, text: "" };
        entry.pieces.push(piece);
      }
      const room = PIECE - piece.text.length;
      piece.text += rest.slice(0, room);
      rest = rest.slice(room);
    }
    this.#trim();
    this.changed();
  }

  #trim() {
    while (this.size > LIMIT || this.entries.length > ENTRIES) {
      const [first] = this.entries;
      const gone = first.pieces.shift()?.text.length ?? 0;
      this.size -= gone;
      this.dropped += gone;
      if (first.pieces.length === 0) this.entries.shift();
    }
  }
}
