// The page at /: what is in the form is asked, what comes back is shown.

import { about, ask, models } from "./client.js";
import { CodeTabs } from "./code.js";
import { $, chosen, complain } from "./dom.js";
import { Explainer } from "./explainer.js";
import { explain } from "./faults.js";
import { History } from "./history.js";
import { seconds, speak, t } from "./i18n.js";
import { Inputs } from "./inputs.js";
import { Key } from "./key.js";
import { Outcome, gather, measured } from "./outcome.js";
import { SizePicker } from "./picker.js";
import { Asked, fieldsOf } from "./request.js";
import { Timeline } from "./timeline.js";

speak($("language"));

const server = await about();
let running = null;
let code = null;

const key = new Key(server.key, changed);
const sizes = new SizePicker(server.size, changed);
const inputs = new Inputs(server.max_image_bytes, changed);
const timeline = new Timeline();
const outcome = new Outcome((blob) => inputs.replace([blob], null).then(() => $("prompt").focus()));
const history = new History(recall);
new Explainer(key, announce);
code = new CodeTabs(() => ({ asked: read(), keyed: server.key !== "none" || Boolean(key.value) }));

$("composer").querySelector("details").open = key.isMissing;
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running && check()) run(read());
});
$("composer").addEventListener("input", changed);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("model").addEventListener("focus", listModels);
changed();
await history.open();
document.documentElement.dataset.ready = "";

/** What depends on another choice is hidden or shut while it has no effect. */
function changed() {
  const format = chosen("format");
  $("compression-field").hidden = format !== "jpeg" && format !== "webp";
  $("partials").disabled = !$("stream").checked;
  $("count").disabled = $("stream").checked;
  code?.write();
}

/** The request as the form stands. */
function read() {
  const fields = fieldsOf({
    model: $("model").value.trim() || "gpt-image-2",
    prompt: $("prompt").value.trim() || $("prompt").placeholder,
    size: sizes.value,
    quality: chosen("quality"),
    count: Math.min(10, Math.max(1, $("count").valueAsNumber || 1)),
    format: chosen("format"),
    compression: Math.min(100, Math.max(0, $("compression").valueAsNumber || 0)),
    stream: $("stream").checked,
    partials: Number($("partials").value),
  });
  return new Asked(fields, inputs.images, inputs.mask);
}

/** Whether it may be asked; says what may not, and goes there. */
function check() {
  const prompt = $("prompt").value.trim() ? null : t("prompt_missing");
  complain($("prompt"), $("prompt-fault"), prompt);
  const missing = key.isMissing ? t("key_missing") : null;
  complain($("key"), $("key-fault"), missing);
  const first = (prompt && "prompt") || (sizes.fault && "width") || (missing && "key");
  if (first) visit(first);
  return !first;
}

function visit(id, { quietly = false } = {}) {
  const field = $(id);
  if (!field || field.closest("[hidden]")) return;
  const folded = field.closest("details");
  if (folded) folded.open = true;
  field.focus({ preventScroll: quietly });
}

/** On a phone the outcome is below the form. */
function reveal() {
  const { top, bottom } = $("outcome").getBoundingClientRect();
  if (top > innerHeight * 0.7 || bottom < 0) $("outcome").scrollIntoView({ block: "start" });
}

async function run(asked) {
  running = new AbortController();
  busy(true);
  timeline.start();
  outcome.wait(asked.fields.size);
  code.show(null);
  reveal();
  announce(t("step_announced"));
  try {
    await follow(asked, running.signal);
  } catch (error) {
    if (!running.signal.aborted) throw error;
    timeline.add({ kind: "stopped" });
    outcome.empty();
    announce(t("step_stopped"));
  } finally {
    timeline.stop();
    running = null;
    busy(false);
  }
}

async function follow(asked, signal) {
  let answer = { status: 0, headers: [] };
  const documents = [];
  for await (const step of ask(asked, key.value, signal)) {
    if (step.kind === "late") answer.headers.push(step.header);
    else timeline.add(step);
    if (step.document) documents.push(step.document);
    if (step.kind === "answered") answer = step;
    if (step.kind === "partial") await showPartial(step);
    if (step.kind === "failed") fail({ ...step, id: answer.id });
    if (step.kind === "completed") await finish(asked, answer, step);
    if (answer.status) code.show({ ...answer, documents });
  }
}

async function showPartial({ blob, document }) {
  announce(t("step_partial", { number: document.partial_image_index + 1 }));
  await outcome.partial(blob, document.partial_image_index);
}

async function finish(asked, answer, step) {
  const facts = gather(answer, step.usage, performance.now() - timeline.began);
  const pictures = await measured(step.pictures);
  outcome.done(pictures, facts, asked.fields.prompt);
  timeline.add({ kind: "shown" });
  const sizesShown = pictures.map(({ width, height }) => `${width}×${height}`).join(", ");
  announce(t("step_done", { count: pictures.length, sizes: sizesShown, took: seconds(facts.took) }));
  const { fields, images, mask } = asked;
  // Not waited for: the next question need not wait for the disk.
  history.add({ at: Date.now(), fields, images, mask, pictures, facts });
}

function fail(failed) {
  outcome.fail(failed);
  const { field } = explain(failed);
  // Where the eye is stays where it is: the reason is to be read first.
  if (field) visit(field, { quietly: true });
  reveal();
}

/** An entry of the history, with the form as it was. */
function recall({ fields, images, mask, pictures, facts }) {
  if (running) return;
  $("prompt").value = fields.prompt;
  $("model").value = fields.model;
  $("stream").checked = Boolean(fields.stream);
  $("partials").value = String(fields.partial_images ?? 2);
  $("count").value = String(fields.n ?? 1);
  $("compression").value = String(fields.output_compression ?? 90);
  choose("quality", fields.quality ?? "");
  choose("format", fields.output_format ?? "");
  sizes.value = fields.size;
  inputs.replace(images, mask);
  timeline.hide();
  code.show(null);
  outcome.done(pictures, facts, fields.prompt);
  $("outcome").focus();
  changed();
}

function choose(name, value) {
  document.querySelector(`input[name="${name}"][value="${CSS.escape(value)}"]`).checked = true;
}

function busy(is) {
  // Not `disabled`, which would take the focus away.
  $("paint").setAttribute("aria-disabled", String(is));
  $("stop").hidden = !is;
  $("outcome").setAttribute("aria-busy", String(is));
}

function announce(text) {
  $("announcer").textContent = text;
}

async function listModels() {
  if (key.isMissing || $("models").children.length) return;
  const names = await models(key.value);
  $("models").replaceChildren(...names.map((name) => new Option(name, name)));
}
