const PIECE = 16_384; // characters of one chunk of text

/** A long text as pieces of at most `PIECE` characters; no surrogate pair is cut. */
export function* textPieces(text) {
  for (let start = 0; start < text.length;) {
    let end = Math.min(start + PIECE, text.length);
    const code = text.charCodeAt(end - 1);
    if (end < text.length && code >= 0xd800 && code < 0xdc00) end -= 1;
    yield text.slice(start, end);
    start = end;
  }
}

/** Pieces of a text file, each with the bytes read so far. The file is never in memory as a whole. */
export async function* filePieces(file) {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let read = 0;
  for (const reader = file.stream().getReader(); ;) {
    const { done, value } = await reader.read();
    read += value?.byteLength ?? 0;
    for (const piece of textPieces(decode(decoder, value, done))) yield [piece, read];
    if (done) return;
  }
}

function decode(decoder, bytes, last) {
  try {
    return decoder.decode(bytes, { stream: !last });
  } catch {
    throw new Error("the file is not UTF-8 text");
  }
}
