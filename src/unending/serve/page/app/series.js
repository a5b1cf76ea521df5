import { Observed } from "./observed.js";

export const POINTS = 384;
export const COLUMNS = 4;

/**
 * Rows of an endless stream as at most `POINTS` points over all of it: when they are too many, neighbours are
 * averaged, so that each point is the mean of `stride` rows.
 */
export class Series extends Observed {
  positions = [];
  columns = []; // one list of values a column, the first `COLUMNS` of them
  names = [];
  stride = 1;
  rows = 0;
  width = 0; // columns that the rows have
  #sums = [];
  #counts = [];
  #held = 0;

  /** Rows `{shape: [n, d], values}` that speak of stream time from `start` to `end`. */
  add({ shape, values }, names, start, end) {
    const [count, width] = shape.length > 1 ? shape : [shape[0], 1];
    if (width !== this.width) this.#reset(width, names);
    for (let row = 0; row < count; row++) {
      for (let column = 0; column < this.columns.length; column++) {
        const value = Number(values[row * width + column]);
        if (!Number.isFinite(value)) continue;
        this.#sums[column] += value;
        this.#counts[column] += 1;
      }
      this.rows += 1;
      this.#held += 1;
      if (this.#held >= this.stride) this.#close(start + ((row + 1) * (end - start)) / count);
    }
    if (count) this.changed();
  }

  #reset(width, names) {
    this.width = width;
    this.positions = [];
    this.columns = Array.from({ length: Math.min(width, COLUMNS) }, () => []);
    this.names = this.columns.map(
      (_, column) => names?.[column] ?? (width > 1 ? `column ${column + 1}` : "value"),
    );
    this.stride = 1;
    this.rows = 0;
    this.#clear();
  }

  #clear() {
    this.#sums = this.columns.map(() => 0);
    this.#counts = this.columns.map(() => 0);
    this.#held = 0;
  }

  #close(position) {
    // A question may set the stream's time back; a plot needs it in order.
    this.positions.push(Math.max(position, this.positions.at(-1) ?? position));
    this.columns.forEach((column, index) =>
      column.push(this.#counts[index] ? this.#sums[index] / this.#counts[index] : null),
    );
    this.#clear();
    if (this.positions.length >= POINTS) this.#halve();
  }

  #halve() {
    this.stride *= 2;
    this.positions = this.positions.filter((_, index) => index % 2 === 1);
    this.columns = this.columns.map((column) => {
      const halved = [];
      for (let index = 1; index < column.length; index += 2) {
        const [a, b] = [column[index - 1], column[index]];
        halved.push(a === null ? b : b === null ? a : (a + b) / 2);
      }
      return halved;
    });
  }
}
