import { Observed } from "./observed.js";
import { token } from "./token.js";

/** An answer of the server that is not a success, or none at all (`code` "unreachable"). */
export class ServerError extends Error {
  constructor(message, code, retryAfter = 0) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Whether the server answered last time it was asked. */
class Reach extends Observed {
  ok = true;

  set(ok) {
    if (this.ok === ok) return;
    this.ok = ok;
    this.changed();
  }
}

export const reach = new Reach();

export const address = (path) => new URL(path, document.baseURI);

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `the server answered ${response.status}`;
  return new ServerError(
    message,
    error?.code ?? String(response.status),
    Number(response.headers.get("retry-after")),
  );
}

export async function request(path, { method = "GET", json, body, signal } = {}) {
  const used = token.value;
  const headers = { ...token.headers };
  if (json !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method,
      headers,
      signal,
      body: json ? JSON.stringify(json) : body,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reach.set(false);
    throw new ServerError("the server cannot be reached", "unreachable");
  }
  reach.set(true);
  if (response.status === 401) token.reject(used);
  if (!response.ok) throw await refusal(response);
  return response;
}

const json = async (path, options) => (await request(path, options)).json();

export const sessionPath = (system, name) =>
  `v1/sessions/${encodeURIComponent(system)}/${encodeURIComponent(name)}`;

export const server = {
  systems: async (signal) => (await json("v1/systems", { signal })).systems,
  sessions: async (signal) => (await json("v1/sessions", { signal })).sessions,
  session: (system, name, signal) => json(sessionPath(system, name), { signal }),
  remove: (system, name) => request(sessionPath(system, name), { method: "DELETE" }),
  fork: (system, name, to) => request(`${sessionPath(system, name)}/fork`, { method: "POST", json: { to } }),
  snapshot: async (system, name) => (await request(`${sessionPath(system, name)}/snapshot`)).blob(),
  restore: (system, name, file) =>
    request(`${sessionPath(system, name)}/snapshot`, { method: "PUT", body: file }),
};
