// Asks the Images API and tells, step by step, what comes back.

import { readEvents } from "./events.js";
import { decode } from "./pictures.js";

/** Sent with the page's own address in front, so that it works behind a path too. */
export const address = (path) => new URL(path, new URL("./", document.baseURI)).href;

/**
 * Yields `{kind, …}`: asked, answered, alive, progress, late, bytes, partial, completed, failed. `asked` as of
 * request.js; `key` may be empty. Never throws but for an abort by `signal`.
 */
export async function* ask(asked, key, signal) {
  const { body, headers, size } = asked.body();
  yield { kind: "asked", path: asked.path, size };
  let response;
  try {
    const keyed = key ? { ...headers, authorization: `Bearer ${key}` } : headers;
    response = await fetch(address(asked.path.slice(1)), { method: "POST", headers: keyed, body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    yield { kind: "failed", offline: true };
    return;
  }
  const answer = {
    status: response.status,
    headers: [...response.headers],
    id: response.headers.get("x-request-id"),
  };
  yield { kind: "answered", ...answer };
  try {
    const streamed = response.headers.get("content-type")?.startsWith("text/event-stream");
    yield* streamed ? readStream(response) : readWhole(response);
  } catch (error) {
    if (signal.aborted) throw error;
    yield { kind: "failed", status: answer.status, cut: true };
  }
}

async function* chunksOf(response, seen) {
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    seen(value.length);
    yield value;
  }
}

async function* readStream(response) {
  let size = 0;
  let ended = false;
  for await (const event of readEvents(chunksOf(response, (length) => (size += length)))) {
    if (event.comment !== undefined) {
      yield remark(event.comment);
      continue;
    }
    const document = JSON.parse(event.data);
    if (event.name === "error") yield { kind: "failed", status: response.status, error: document.error, document };
    else if (event.name.endsWith(".partial_image")) yield { kind: "partial", ...picture(document), document };
    else if (event.name.endsWith(".completed"))
      yield { kind: "completed", pictures: [picture(document)], usage: document.usage, document, size };
    ended = ended || event.name === "error" || event.name.endsWith(".completed");
  }
  if (!ended) yield { kind: "failed", status: response.status, cut: true };
}

/** A comment is a header that the stream was too early for, or what the upstream says, or a mere sign of life. */
function remark(comment) {
  const [, name, value] = /^(x-limner-[a-z-]+): (.*)$/.exec(comment) ?? [];
  if (name) return { kind: "late", header: [name, value] };
  const [, text] = /^progress (.+)$/.exec(comment) ?? [];
  return text ? { kind: "progress", text } : { kind: "alive" };
}

/** White space in front is a sign of life. */
async function* readWhole(response) {
  const pieces = [];
  const announced = Number(response.headers.get("content-length")) || null;
  let size = 0;
  let told = 0;
  for await (const piece of chunksOf(response, (length) => (size += length))) {
    pieces.push(piece);
    if (piece.every((byte) => byte === 0x20)) yield { kind: "alive" };
    else if (size - told >= 2 ** 18) {
      told = size;
      yield { kind: "bytes", size, announced };
    }
  }
  const document = parse(await new Blob(pieces).text());
  if (document === null) yield { kind: "failed", status: response.status, cut: true };
  else if (document.error) yield { kind: "failed", status: response.status, error: document.error, document };
  else yield { kind: "completed", pictures: document.data.map(picture), usage: document.usage, document, size };
}

/** An answer that failed after it had begun is an error object and one stray byte. */
function parse(text) {
  for (const candidate of [text, text.slice(0, -1)]) {
    try {
      return JSON.parse(candidate);
    } catch {
      continue;
    }
  }
  return null;
}

function picture(document) {
  return { blob: decode(document.b64_json) };
}

/** What the server tells about itself. */
export async function about() {
  return (await fetch("web/server.json")).json();
}

/** What is found in a chat reply: `{document}`, or `{failed}` as of `ask`. */
export async function diagnose(reply, key) {
  const headers = { "content-type": "text/plain", ...(key && { authorization: `Bearer ${key}` }) };
  try {
    const response = await fetch(address("v1/explain"), { method: "POST", headers, body: reply });
    const document = await response.json();
    return response.ok ? { document } : { failed: { status: response.status, error: document.error } };
  } catch {
    return { failed: { offline: true } };
  }
}

/** The names that clients may use; none where the key does not open the list. */
export async function models(key) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const response = await fetch(address("v1/models"), { headers }).catch(() => null);
  return response?.ok ? (await response.json()).data.map((model) => model.id) : [];
}
