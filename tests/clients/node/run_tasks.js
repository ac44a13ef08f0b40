// Run tasks, one JSON object per line on stdin, and write the results to stdout, also as JSON lines.
//
// During a task: {"status": 200} for each request, as soon as the head of its response has arrived.
// At its end: {"requests": 1, "items": […], "error": null | {…}}; the items of a stream are its events.

import { channel } from "node:diagnostics_channel";
import { createInterface } from "node:readline";

import { clients } from "./clients.js";

// Output of libraries must not appear between the lines.
globalThis.console = new console.Console(process.stderr);

let requests = 0;

const write = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Observe Node's fetch and, for the old client, node-fetch through diagnostics channels, without changing the clients.
for (const [name, statusOf] of [
  ["undici:request:headers", ({ response }) => response.statusCode],
  ["http.client.response.finish", ({ response }) => response.statusCode],
]) {
  channel(name).subscribe((message) => write({ status: statusOf(message) }));
}
for (const name of ["undici:request:create", "http.client.request.start"]) {
  channel(name).subscribe(() => (requests += 1));
}

const describe = (error) => {
  const kinds = [];
  for (let kind = Object.getPrototypeOf(error); kind && kind !== Object.prototype; kind = Object.getPrototypeOf(kind)) {
    kinds.push(kind.constructor.name);
  }
  const { name, message, status = error.statusCode, code, type, param } = error;
  return { kinds, name, message, status, code, type, param };
};

for await (const line of createInterface({ input: process.stdin })) {
  const { client, ...task } = JSON.parse(line);
  const items = [];
  let error = null;
  requests = 0;
  try {
    for await (const item of clients[client](task)) {
      items.push(item);
    }
  } catch (caught) {
    error = describe(caught);
  }
  write({ requests, items, error });
}
