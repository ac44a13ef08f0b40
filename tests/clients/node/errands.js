// Runs errands, one JSON object a line on stdin, and tells on stdout what came of each: JSON lines too.
//
// While an errand is run: {"status": 200} as soon as the head of a response is there, for each request.
// At its end: {"requests": 1, "items": […], "error": null | {…}}; a stream's items are its events until it failed.

import { channel } from "node:diagnostics_channel";
import { createInterface } from "node:readline";

import { clients } from "./clients.js";

// What a library prints must not come between the lines.
globalThis.console = new console.Console(process.stderr);

let requests = 0;

const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

// Node's own fetch and, for the old client, node-fetch: watched from outside, so that the clients run undisturbed.
for (const [name, statusOf] of [
  ["undici:request:headers", ({ response }) => response.statusCode],
  ["http.client.response.finish", ({ response }) => response.statusCode],
]) {
  channel(name).subscribe((message) => tell({ status: statusOf(message) }));
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
  const { client, ...errand } = JSON.parse(line);
  const items = [];
  let error = null;
  requests = 0;
  try {
    for await (const item of clients[client](errand)) {
      items.push(item);
    }
  } catch (caught) {
    error = describe(caught);
  }
  tell({ requests, items, error });
}
