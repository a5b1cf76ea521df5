import { Client } from "./client.js";

const KEPT = 8; // sessions whose transcripts are kept when one leaves them
const clients = new Map();

function keep(key, client) {
  clients.delete(key);
  clients.set(key, client);
  if (clients.size > KEPT) clients.delete(clients.keys().next().value);
  return client;
}

/** The client of a session that is there, with what it has received so far. */
export function clientOf(system, name) {
  const key = `${system}/${name}`;
  return keep(key, clients.get(key) ?? new Client(system, name));
}

/** The client of a session that its first `enter` opens on the server. */
export function newClient(system, name, seed) {
  return keep(`${system}/${name}`, new Client(system, name, seed));
}

export function forgetClient(system, name) {
  clients.delete(`${system}/${name}`);
}
