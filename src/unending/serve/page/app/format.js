const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value) => number.format(value);

export const compact = (value) => (Math.abs(value) < 1000 ? three.format(value) : short.format(value));

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let power = 0;
  while (value >= 1000 && power < units.length - 1) {
    value /= 1000;
    power += 1;
  }
  return `${three.format(value)} ${units[power]}`;
}

export function seconds(value) {
  if (!value) return "0 s";
  if (value < 1e-3) return `${three.format(value * 1e6)} µs`;
  if (value < 1) return `${three.format(value * 1e3)} ms`;
  return `${three.format(value)} s`;
}

export const rate = (value) => `${compact(value)} items/s`;

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
