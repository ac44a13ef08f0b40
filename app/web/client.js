// HTTP requests to the server: image requests step by step, and the small endpoints that the page needs.

import { readEvents } from "./events.js";
import { decodeImage } from "./image-files.js";

/** A path as a URL below the page's own address, so that the page also works behind a path of a proxy. */
export const serverUrl = (path) => new URL(path, new URL("./", document.baseURI)).href;

/**
 * Sends an ImageRequest and yields steps `{kind, …}`: sent, responded, keepalive, progress, header, bytes, partial,
 * completed, failed. `key` may be empty. Throws only when aborted by `signal`.
 */
export async function* sendRequest(request, key, signal) {
  const { body, headers, size } = request.body();
  yield { kind: "sent", path: request.path, size };
  let response;
  try {
    const allHeaders = key ? { ...headers, authorization: `Bearer ${key}` } : headers;
    response = await fetch(serverUrl(request.path.slice(1)), { method: "POST", headers: allHeaders, body, signal });
  } catch (error) {
    if (signal.aborted) throw error;
    yield { kind: "failed", offline: true };
    return;
  }
  const head = { status: response.status, headers: [...response.headers], id: response.headers.get("x-request-id") };
  yield { kind: "responded", ...head };
  try {
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    yield* isStream ? readStream(response) : readWhole(response);
  } catch (error) {
    if (signal.aborted) throw error;
    yield { kind: "failed", status: head.status, cut: true };
  }
}

async function* chunksOf(response, onChunk) {
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    onChunk(value.length);
    yield value;
  }
}

async function* readStream(response) {
  let size = 0;
  let ended = false;
  for await (const event of readEvents(chunksOf(response, (length) => (size += length)))) {
    if (event.comment !== undefined) {
      yield readComment(event.comment);
      continue;
    }
    const document = JSON.parse(event.data);
    if (event.name === "error") yield { kind: "failed", status: response.status, error: document.error, document };
    else if (event.name.endsWith(".partial_image")) yield { kind: "partial", ...readImage(document), document };
    else if (event.name.endsWith(".completed"))
      yield { kind: "completed", images: [readImage(document)], usage: document.usage, document, size };
    ended = ended || event.name === "error" || event.name.endsWith(".completed");
  }
  if (!ended) yield { kind: "failed", status: response.status, cut: true };
}

/** A comment is a header that came too late for the head of the response, a progress line, or a mere keep-alive. */
function readComment(comment) {
  const [, name, value] = /^(x-limner-[a-z-]+): (.*)$/.exec(comment) ?? [];
  if (name) return { kind: "header", header: [name, value] };
  const [, text] = /^progress (.+)$/.exec(comment) ?? [];
  return text ? { kind: "progress", text } : { kind: "keepalive" };
}

/** Reads a JSON response. White space in front of it is a keep-alive. */
async function* readWhole(response) {
  const chunks = [];
  const announced = Number(response.headers.get("content-length")) || null;
  let size = 0;
  let reported = 0;
  for await (const chunk of chunksOf(response, (length) => (size += length))) {
    chunks.push(chunk);
    if (chunk.every((byte) => byte === 0x20)) yield { kind: "keepalive" };
    else if (size - reported >= 2 ** 18) {
      reported = size;
      yield { kind: "bytes", size, announced };
    }
  }
  const document = parse(await new Blob(chunks).text());
  if (document === null) yield { kind: "failed", status: response.status, cut: true };
  else if (document.error) yield { kind: "failed", status: response.status, error: document.error, document };
  else yield { kind: "completed", images: document.data.map(readImage), usage: document.usage, document, size };
}

/** A response that failed after its start ends with the error object and one stray byte. */
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

function readImage(document) {
  return { blob: decodeImage(document.b64_json) };
}

export async function fetchServerInfo() {
  return (await fetch("web/server.json")).json();
}

/** Returns the report about a chat reply: `{document}`, or `{failed}` as in the steps of `sendRequest`. */
export async function explainReply(reply, key) {
  const headers = { "content-type": "text/plain", ...(key && { authorization: `Bearer ${key}` }) };
  try {
    const response = await fetch(serverUrl("v1/explain"), { method: "POST", headers, body: reply });
    const document = await response.json();
    return response.ok ? { document } : { failed: { status: response.status, error: document.error } };
  } catch {
    return { failed: { offline: true } };
  }
}

/** Returns the names of the models, or none if the key is not accepted. */
export async function fetchModels(key) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const response = await fetch(serverUrl("v1/models"), { headers }).catch(() => null);
  return response?.ok ? (await response.json()).data.map((model) => model.id) : [];
}
