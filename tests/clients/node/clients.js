// The clients by name: async generators that run one task and yield the items that the client returns.

import { createReadStream, readFileSync } from "node:fs";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import { OpenAI as OpenAI6 } from "openai";
import { OpenAI as OpenAI4 } from "openai-4";

// Files come as {"$stream": path} and {"$bytes": path}; the order of an object's keys stays.
const withFiles = (value) => {
  if (value === null || typeof value !== "object") return value;
  if (value.$stream) return createReadStream(value.$stream);
  if (value.$bytes) return readFileSync(value.$bytes);
  if (Array.isArray(value)) return value.map(withFiles);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withFiles(item)]));
};

// A method is a path like "images.generate"; the pages of a list and the events of a stream are items each.
const official = (OpenAI) =>
  async function* ({ url, key, retries, method, body }) {
    const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: retries });
    const [resource, verb] = method.split(".");
    const answer = await client[resource][verb](...(body ? [withFiles(body)] : []));
    if (Symbol.asyncIterator in answer) yield* answer;
    else yield answer;
  };

const vercel = (imageModel) =>
  async function* ({ url, key, retries, body: { model, ...options } }) {
    const baseURL = `${url}/v1`;
    const settings = { ...withFiles(options), model: imageModel({ baseURL, apiKey: key }, model), maxRetries: retries };
    const { images } = await generateImage(settings);
    for (const { base64, mediaType } of images) yield { b64_json: base64, media_type: mediaType };
  };

// What a browser asks before it lets a page send its request.
async function* browser({ url, path, headers }) {
  const response = await fetch(url + path, { method: "OPTIONS", headers });
  yield { status: response.status, headers: Object.fromEntries(response.headers), body: await response.text() };
}

export const clients = {
  "openai 6": official(OpenAI6),
  "openai 4": official(OpenAI4),
  "ai with openai": vercel((settings, model) => createOpenAI(settings).image(model)),
  "ai with openai-compatible": vercel((settings, model) =>
    createOpenAICompatible({ name: "limner", ...settings }).imageModel(model),
  ),
  browser,
};
