// The schemas of an OpenAPI document as fields in words, and its examples as commands.

import { t } from "./i18n.js";

/** A field that may be null is described by its other type: null means that the field is not given. */
function withoutNull({ anyOf, ...schema }) {
  const rest = anyOf?.filter((each) => each.type !== "null") ?? [{}];
  return rest.length === 1 ? { ...schema, ...rest[0] } : { anyOf: rest, ...schema };
}

/** Yields `{name, type, description, isRequired}` for each property; nested ones are named `usage.total_tokens`. */
export function* fieldsOf(schema, prefix = "") {
  const required = schema.required ?? [];
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const field = withoutNull(property);
    const { description } = field;
    yield { name: prefix + name, type: typeText(field), description, isRequired: required.includes(name) };
    const isList = field.type === "array";
    yield* fieldsOf(withoutNull(isList ? field.items : field), `${prefix}${name}${isList ? "[]" : ""}.`);
  }
}

/** The type in words, with its limits. */
export function typeText(schema) {
  const { type, minimum, maximum, maxLength, minItems, maxItems } = schema;
  if (schema.enum) return schema.enum.join(" | ");
  if ("const" in schema) return String(schema.const);
  if (schema.anyOf) return schema.anyOf.map(typeText).join(" | ");
  if (schema.format === "binary") return t("docs_file");
  if (type === "array") {
    const items = schema.items.format === "binary" ? t("docs_file") : schema.items.type;
    return limited(t("docs_list", { items }), minItems, maxItems);
  }
  const name = Array.isArray(type) ? type.join(" | ") : (type ?? "");
  if (maxLength) return `${name}, ${t("docs_characters", { max: maxLength })}`;
  return limited(name, minimum, maximum);
}

function limited(name, min, max) {
  if (min === undefined && max === undefined) return name;
  if (max === undefined) return `${name} ≥ ${min}`;
  return `${name}, ${min ?? 0}–${max}`;
}

/** Yields `[title, value]` for each example of a media type. */
export function* examplesOf({ example, examples }) {
  if (example !== undefined) yield ["", example];
  for (const [title, { value }] of Object.entries(examples ?? {})) yield [title, value];
}

export const exampleText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The operation as a `curl` command; `body` is JSON. Parameters of the path have the values of their examples. */
export function curlCommand(base, path, { parameters = [], security }, body) {
  const filled = parameters.reduce((text, { name, example }) => text.replace(`{${name}}`, example), path);
  const lines = [`curl ${base}${filled}`];
  if (security) lines.push('-H "authorization: Bearer $LIMNER_KEY"');
  if (body) lines.push("-H 'content-type: application/json'", `-d ${shell(JSON.stringify(body))}`);
  return lines.join(" \\\n  ");
}
