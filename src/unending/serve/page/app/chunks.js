/** Chunks as they come over the wire, and as a person writes them. */

const TYPES = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 25) * (1024 + fraction);
}

/** `{shape, values}` of an array of the wire: base64 with dtype and shape, or nested lists. */
export function readArray(array) {
  if (Array.isArray(array)) {
    const shape = [];
    for (let part = array; Array.isArray(part); part = part[0]) shape.push(part.length);
    return { shape, values: array.flat(Infinity) };
  }
  const bytes = Uint8Array.from(atob(array.base64), (character) => character.charCodeAt(0));
  if (array.dtype === "float16") {
    return { shape: array.shape, values: Array.from(new Uint16Array(bytes.buffer), half) };
  }
  const Type = TYPES[array.dtype];
  if (!Type) throw new TypeError(`arrays of ${array.dtype} are not read here`);
  return { shape: array.shape, values: new Type(bytes.buffer) };
}

const isArray = (value) =>
  Array.isArray(value) || (value !== null && typeof value === "object" && "shape" in value);

/** One line about a chunk that is neither text nor plotted. */
export function summary(chunk) {
  const parts = [];
  for (const [name, value] of Object.entries(chunk)) {
    if (name === "kind" || name === "t" || value === null) continue;
    if (isArray(value)) {
      const shape = value.shape ?? readArray(value).shape;
      const few = chunk.kind === "Tokens" && shape[0] <= 32;
      parts.push(few ? `${name} ${[...readArray(value).values].join(" ")}` : `${name} ${shape.join(" × ")}`);
    } else {
      parts.push(`${name} ${JSON.stringify(value)}`.slice(0, 200));
    }
  }
  return `${chunk.kind}: ${parts.join(", ")}`;
}

const numbers = (line) => {
  const read = line
    .split(/[\s,;]+/)
    .filter(Boolean)
    .map(Number);
  if (!read.every(Number.isFinite)) throw new RangeError(`"${line.slice(0, 40)}" is not a line of numbers`);
  return read;
};

function rows(text) {
  const values = text
    .split("\n")
    .filter((line) => line.trim())
    .map(numbers);
  if (values.some((row) => row.length !== values[0].length))
    throw new RangeError("rows must have one length");
  return { kind: "Rows", values };
}

const ids = (kind) => (text) => {
  const read = numbers(text.replaceAll("\n", " "));
  if (!read.every((id) => Number.isInteger(id) && id >= 0))
    throw new RangeError(`${kind.toLowerCase()} are whole numbers from 0`);
  return { kind, ids: read };
};

function control(text) {
  const [, name, rest] = /^(\S+)\s*([^]*)$/.exec(text.trim());
  if (!rest) return { kind: "Control", name };
  try {
    return { kind: "Control", name, value: JSON.parse(rest) };
  } catch {
    return { kind: "Control", name, value: rest };
  }
}

/** What can be written by hand: kind -> how it is called, asked for, and made into a chunk. */
export const WRITTEN = {
  Text: {
    label: "Text",
    verb: "Push",
    hint: "Text for the stream",
    make: (text) => ({ kind: "Text", text }),
  },
  Query: {
    label: "Question",
    verb: "Ask",
    hint: "A question at this point of the stream",
    make: (text) => ({ kind: "Query", text }),
  },
  Rows: { label: "Rows", verb: "Push", hint: "Numbers, one row a line", make: rows },
  Tokens: { label: "Tokens", verb: "Push", hint: "Token ids, apart by spaces", make: ids("Tokens") },
  Symbols: { label: "Symbols", verb: "Push", hint: "Symbol numbers, apart by spaces", make: ids("Symbols") },
  Control: { label: "Control", verb: "Send", hint: "A name, then its value as JSON or text", make: control },
};
