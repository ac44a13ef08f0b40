// The page at /docs: every endpoint of /openapi.json, with its parameters, requests and responses.

import { serverUrl } from "./client.js";
import { $, el } from "./dom.js";
import { setUpLanguage, t } from "./i18n.js";
import { curlCommand, examplesOf, exampleText, fieldsOf, typeText } from "./openapi-schema.js";

const COPIED_FOR = 2000;
const BASE = serverUrl("").replace(/\/$/, "");

let groups = null;

document.addEventListener("language", write);
window.addEventListener("hashchange", openLinked);
$("base-url").textContent = `${BASE}/v1`;
setUpLanguage($("language"));
await load();

async function load() {
  try {
    const response = await fetch(serverUrl("openapi.json"));
    groups = groupsOf((await response.json()).paths);
  } catch {
    $("failure").dataset.i18n = "docs_failed";
    $("failure").textContent = t("docs_failed");
    $("failure").hidden = false;
  }
  write();
  openLinked();
  document.documentElement.dataset.ready = "";
}

/** Maps the first tag of each operation to its operations `{path, method, …}`. */
function groupsOf(paths) {
  const found = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      found.set(tag, [...(found.get(tag) ?? []), { path, method, ...operation }]);
    }
  }
  return found;
}

function write() {
  if (groups === null) return;
  const open = new Set([...document.querySelectorAll(".operation[open]")].map((each) => each.id));
  const sections = [...groups].map(([tag, operations]) => [titled(tag), operations]);
  $("contents").replaceChildren(
    ...sections.map(([title, all]) => el("div", {}, el("p", {}, title), ...all.map(contentsLink))),
  );
  $("operations").replaceChildren(
    ...sections.map(([title, all]) =>
      el("section", { "aria-label": title }, el("h2", {}, title), ...all.map((each) => operationBox(each, open))),
    ),
  );
}

/** Opens the operation that the address names behind #. */
function openLinked() {
  const linked = document.getElementById(location.hash.slice(1));
  if (!linked?.matches(".operation")) return;
  linked.open = true;
  linked.scrollIntoView();
}

function titled(tag) {
  return tag[0].toUpperCase() + tag.slice(1);
}

function methodLabel(method) {
  return el("span", { className: `method ${method}` }, method.toUpperCase());
}

function contentsLink({ path, method, operationId }) {
  return el("a", { href: `#${operationId}` }, methodLabel(method), el("code", {}, path));
}

function operationBox(operation, open) {
  const { path, method, operationId, summary, parameters = [], requestBody, responses } = operation;
  const parts = [
    el("p", { className: "hint" }, t(operation.security ? "docs_needs_key" : "docs_needs_no_key")),
    ...(parameters.length ? [heading("docs_parameters"), fieldList(parameters.map(parameterField))] : []),
    ...(requestBody ? requestParts(operation) : [example("curl", curlCommand(BASE, path, operation))]),
    heading("docs_responses"),
    ...Object.entries(responses).map(responseBox),
  ];
  return el(
    "details",
    { className: "operation", id: operationId, open: open.has(operationId) },
    el(
      "summary",
      {},
      el("h3", {}, methodLabel(method), el("code", {}, path)),
      el("p", {}, ...withCode(summary)),
    ),
    el("div", { className: "parts" }, ...parts),
  );
}

function parameterField({ name, in: place, required, description, schema }) {
  return { name, place, type: typeText(schema), description, isRequired: Boolean(required) };
}

/** The JSON body in full, other forms of it behind a click. */
function requestParts({ path, requestBody, ...operation }) {
  const { "application/json": json, ...others } = requestBody.content;
  const commands = [...examplesOf(json)].map(([title, body]) =>
    example(title, curlCommand(BASE, path, operation, body)),
  );
  return [
    heading("docs_body"),
    fieldList(fieldsOf(json.schema)),
    ...Object.entries(others).map(([type, { schema }]) => moreFields(t("docs_as", { type }), schema)),
    heading("docs_examples"),
    ...commands,
  ];
}

function responseBox([status, { description, content = {} }]) {
  const isError = status >= "400";
  const parts = Object.entries(content).flatMap(([type, media]) => {
    const examples = [...examplesOf(media)].map(([title, value]) => example(title || type, exampleText(value)));
    const hasFields = media.schema?.properties && !(isError && examples.length);
    return [...examples, ...(hasFields ? [moreFields(t("docs_fields", { type }), media.schema)] : [])];
  });
  const label = [el("b", { className: isError ? "bad" : "good" }, status), " ", ...withCode(description)];
  const box = parts.length ? parts : [el("p", { className: "hint" }, Object.keys(content).join(", "))];
  return el(
    "details",
    { className: "response" },
    el("summary", {}, ...label),
    el("div", {}, ...box),
  );
}

function moreFields(title, schema) {
  return el("details", { className: "more-fields" }, el("summary", {}, title), fieldList(fieldsOf(schema)));
}

function heading(name) {
  return el("h4", {}, t(name));
}

function fieldList(fields) {
  return el("dl", { className: "fields" }, ...[...fields].map(fieldRow));
}

function fieldRow({ name, place, type, description, isRequired }) {
  const notes = [
    place && el("small", {}, t(`docs_in_${place}`)),
    isRequired && el("small", { className: "required" }, t("docs_required")),
  ];
  return el(
    "div",
    {},
    el("dt", {}, el("code", {}, name), ...notes.filter(Boolean)),
    el("dd", {}, ...withCode(description ?? ""), el("div", { className: "type" }, type)),
  );
}

function example(title, text) {
  const code = el("pre", { className: "code", tabIndex: 0, "aria-label": title }, text);
  const button = el("button", { type: "button", className: "link", onclick: () => copy(button, code) }, t("copy"));
  return el("div", { className: "example" }, el("span", { className: "label" }, title), button, code);
}

async function copy(button, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = t("copied");
  } catch {
    // Without TLS there is no clipboard API, so the text is selected for Ctrl+C.
    getSelection().selectAllChildren(code);
    button.textContent = t("selected");
  }
  setTimeout(() => (button.textContent = t("copy")), COPIED_FOR);
}

/** Text whose parts in backticks are code. */
function withCode(text) {
  return text.split("`").map((part, at) => (at % 2 ? el("code", {}, part) : part));
}
