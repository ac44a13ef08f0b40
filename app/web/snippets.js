// The same request for other programs: curl, and the official clients for Python and Node.js.

import { serverUrl } from "./client.js";

const KEY = "$LIMNER_KEY";

export const SNIPPETS = { curl, python, node };

const shell = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const base = () => serverUrl("v1");

function curl(request, needsKey) {
  const lines = [`curl ${request.isStream ? "-N " : ""}${serverUrl(request.path.slice(1))}`];
  if (needsKey) lines.push(`-H "authorization: Bearer ${KEY}"`);
  if (request.images.length) {
    // --form-string, because -F would read a file for a prompt that begins with @.
    for (const [name, value] of Object.entries(request.fields)) {
      lines.push(`--form-string ${shell(`${name}=${value}`)}`);
    }
    for (const [field, , name] of request.files) lines.push(`-F ${shell(`${field}=@${name}`)}`);
  } else {
    lines.push("-H 'content-type: application/json'", `-d ${shell(JSON.stringify(request.fields))}`);
  }
  return lines.join(" \\\n  ");
}

const pythonValue = (value) => (value === true ? "True" : JSON.stringify(value));

function python(request, needsKey) {
  const edit = request.images.length > 0;
  const named = Object.entries(request.fields).map(([name, value]) => `    ${name}=${pythonValue(value)},`);
  const images = request.images.map((_, at) => `open("${request.files[at][2]}", "rb")`);
  if (edit) named.push(`    image=[${images.join(", ")}],`);
  if (request.mask) named.push('    mask=open("mask.png", "rb"),');
  const key = needsKey ? 'os.environ["LIMNER_KEY"]' : '"none"';
  const head = [
    ...(needsKey ? ["import os"] : []),
    "from base64 import b64decode",
    "from pathlib import Path",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base()}", api_key=${key})`,
    `response = client.images.${edit ? "edit" : "generate"}(`,
    ...named,
    ")",
  ];
  return [...head, ...(request.isStream ? PYTHON_STREAM : PYTHON_WHOLE)].join("\n");
}

const PYTHON_STREAM = [
  "for event in response:",
  '    name = "image" if event.type.endswith("completed") else f"partial-{event.partial_image_index}"',
  '    Path(f"{name}.{event.output_format}").write_bytes(b64decode(event.b64_json))',
];
const PYTHON_WHOLE = [
  "for number, image in enumerate(response.data, 1):",
  '    Path(f"image-{number}.{response.output_format}").write_bytes(b64decode(image.b64_json))',
];

function node(request, needsKey) {
  const edit = request.images.length > 0;
  const named = Object.entries(request.fields).map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`);
  const images = request.images.map((_, at) => `createReadStream("${request.files[at][2]}")`);
  if (edit) named.push(`  image: [${images.join(", ")}],`);
  if (request.mask) named.push('  mask: createReadStream("mask.png"),');
  const key = needsKey ? "process.env.LIMNER_KEY" : '"none"';
  const head = [
    ...(edit ? ['import { createReadStream } from "node:fs";'] : []),
    'import { writeFile } from "node:fs/promises";',
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${base()}", apiKey: ${key} });`,
    `const response = await client.images.${edit ? "edit" : "generate"}({`,
    ...named,
    "});",
  ];
  return [...head, ...(request.isStream ? NODE_STREAM : NODE_WHOLE)].join("\n");
}

const NODE_STREAM = [
  "for await (const event of response) {",
  '  const name = event.type.endsWith("completed") ? "image" : `partial-${event.partial_image_index}`;',
  '  await writeFile(`${name}.${event.output_format}`, Buffer.from(event.b64_json, "base64"));',
  "}",
];
const NODE_WHOLE = [
  "for (const [index, image] of response.data.entries()) {",
  '  await writeFile(`image-${index + 1}.${response.output_format}`, Buffer.from(image.b64_json, "base64"));',
  "}",
];
