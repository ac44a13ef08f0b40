// The same request for other programs: curl, Python and Node with the official clients.

import { address } from "./client.js";

const KEY = "$LIMNER_KEY";

export const SNIPPETS = { curl, python, node };

const shell = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const base = () => address("v1");

function curl(asked, keyed) {
  const lines = [`curl ${asked.streams ? "-N " : ""}${address(asked.path.slice(1))}`];
  if (keyed) lines.push(`-H "authorization: Bearer ${KEY}"`);
  if (asked.images.length) {
    // --form-string: a prompt that begins with @ names no file.
    for (const [name, value] of Object.entries(asked.fields)) lines.push(`--form-string ${shell(`${name}=${value}`)}`);
    for (const [field, , name] of asked.files) lines.push(`-F ${shell(`${field}=@${name}`)}`);
  } else {
    lines.push("-H 'content-type: application/json'", `-d ${shell(JSON.stringify(asked.fields))}`);
  }
  return lines.join(" \\\n  ");
}

const pythonValue = (value) => (value === true ? "True" : JSON.stringify(value));

function python(asked, keyed) {
  const edit = asked.images.length > 0;
  const named = Object.entries(asked.fields).map(([name, value]) => `    ${name}=${pythonValue(value)},`);
  const images = asked.images.map((_, at) => `open("${asked.files[at][2]}", "rb")`);
  if (edit) named.push(`    image=[${images.join(", ")}],`);
  if (asked.mask) named.push('    mask=open("mask.png", "rb"),');
  const key = keyed ? 'os.environ["LIMNER_KEY"]' : '"none"';
  const head = [
    ...(keyed ? ["import os"] : []),
    "from base64 import b64decode",
    "from pathlib import Path",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${base()}", api_key=${key})`,
    `answer = client.images.${edit ? "edit" : "generate"}(`,
    ...named,
    ")",
  ];
  return [...head, ...(asked.streams ? PYTHON_STREAM : PYTHON_WHOLE)].join("\n");
}

const PYTHON_STREAM = [
  "for event in answer:",
  '    name = "picture" if event.type.endswith("completed") else f"partial-{event.partial_image_index}"',
  '    Path(f"{name}.{event.output_format}").write_bytes(b64decode(event.b64_json))',
];
const PYTHON_WHOLE = [
  "for number, picture in enumerate(answer.data, 1):",
  '    Path(f"picture-{number}.{answer.output_format}").write_bytes(b64decode(picture.b64_json))',
];

function node(asked, keyed) {
  const edit = asked.images.length > 0;
  const named = Object.entries(asked.fields).map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`);
  const images = asked.images.map((_, at) => `createReadStream("${asked.files[at][2]}")`);
  if (edit) named.push(`  image: [${images.join(", ")}],`);
  if (asked.mask) named.push('  mask: createReadStream("mask.png"),');
  const key = keyed ? "process.env.LIMNER_KEY" : '"none"';
  const head = [
    ...(edit ? ['import { createReadStream } from "node:fs";'] : []),
    'import { writeFile } from "node:fs/promises";',
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${base()}", apiKey: ${key} });`,
    `const answer = await client.images.${edit ? "edit" : "generate"}({`,
    ...named,
    "});",
  ];
  return [...head, ...(asked.streams ? NODE_STREAM : NODE_WHOLE)].join("\n");
}

const NODE_STREAM = [
  "for await (const event of answer) {",
  '  const name = event.type.endsWith("completed") ? "picture" : `partial-${event.partial_image_index}`;',
  '  await writeFile(`${name}.${event.output_format}`, Buffer.from(event.b64_json, "base64"));',
  "}",
];
const NODE_WHOLE = [
  "for (const [index, picture] of answer.data.entries()) {",
  '  await writeFile(`picture-${index + 1}.${answer.output_format}`, Buffer.from(picture.b64_json, "base64"));',
  "}",
];
