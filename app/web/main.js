// The page at /: sends the request of the form, and shows its progress and result.

import { ApiKeyField } from "./api-key.js";
import { fetchModels, fetchServerInfo, sendRequest } from "./client.js";
import { CodeTabs } from "./code-tabs.js";
import { $, checkedValue, showFieldError } from "./dom.js";
import { describeError } from "./errors.js";
import { ReplyExplainer } from "./explainer.js";
import { History, shortened } from "./history.js";
import { seconds, setUpLanguage, t } from "./i18n.js";
import { InputImages } from "./inputs.js";
import { ImageRequest, requestFields } from "./request.js";
import { ResultView, collectFacts, withSizes } from "./result.js";
import { SizePicker } from "./size-picker.js";
import { Timeline } from "./timeline.js";

setUpLanguage($("language"));

const server = await fetchServerInfo();
/** The AbortController of the request that is running, or null. */
let running = null;
let code = null;

const key = new ApiKeyField(server.key, onChange);
const sizes = new SizePicker(server.size, onChange);
const inputs = new InputImages(server.max_image_bytes, onChange);
const timeline = new Timeline((passed) => result.showElapsed(passed));
const result = new ResultView((blob) => inputs.replace([blob], null).then(() => $("prompt").focus()));
const history = new History(showEntry, compareEntry);
new ReplyExplainer(key, announce);
code = new CodeTabs(() => ({ request: readForm(), needsKey: server.key !== "none" || Boolean(key.value) }));

$("composer").querySelector("details").open = key.isMissing;
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running && checkForm()) run(readForm());
});
$("composer").addEventListener("input", onChange);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("model").addEventListener("focus", listModels);
onChange();
await history.open();
document.documentElement.dataset.ready = "";

/** Hides or disables fields that have no effect with the present choices. */
function onChange() {
  const format = checkedValue("format");
  $("compression-field").hidden = format !== "jpeg" && format !== "webp";
  $("partials").disabled = !$("stream").checked;
  $("count").disabled = $("stream").checked;
  code?.write();
}

/** Returns the request that the form describes. */
function readForm() {
  const fields = requestFields({
    model: $("model").value.trim() || "gpt-image-2",
    prompt: $("prompt").value.trim() || $("prompt").placeholder,
    size: sizes.value,
    quality: checkedValue("quality"),
    count: Math.min(10, Math.max(1, $("count").valueAsNumber || 1)),
    format: checkedValue("format"),
    compression: Math.min(100, Math.max(0, $("compression").valueAsNumber || 0)),
    stream: $("stream").checked,
    partials: Number($("partials").value),
  });
  return new ImageRequest(fields, inputs.images, inputs.mask);
}

/** Returns whether the form can be sent. Otherwise shows the errors and focuses the first wrong field. */
function checkForm() {
  const prompt = $("prompt").value.trim() ? null : t("prompt_missing");
  showFieldError($("prompt"), $("prompt-error"), prompt);
  const missing = key.isMissing ? t("key_missing") : null;
  showFieldError($("key"), $("key-error"), missing);
  const first = (prompt && "prompt") || (sizes.error && "width") || (missing && "key");
  if (first) focusField(first);
  return !first;
}

function focusField(id, { preventScroll = false } = {}) {
  const field = $(id);
  if (!field || field.closest("[hidden]")) return;
  const details = field.closest("details");
  if (details) details.open = true;
  field.focus({ preventScroll });
}

/** Scrolls to the result where it is out of view: on a phone it is below the form. */
function scrollToResult() {
  const { top, bottom } = $("result").getBoundingClientRect();
  if (top > innerHeight * 0.7 || bottom < 0) $("result").scrollIntoView({ block: "start" });
}

async function run(request) {
  running = new AbortController();
  setBusy(true);
  result.showWaiting(request.fields.size);
  timeline.start();
  code.show(null);
  scrollToResult();
  announce(t("step_announced"));
  try {
    await follow(request, running.signal);
  } catch (error) {
    if (!running.signal.aborted) throw error;
    timeline.add({ kind: "stopped" });
    result.showEmpty();
    announce(t("step_stopped"));
  } finally {
    timeline.stop();
    running = null;
    setBusy(false);
  }
}

async function follow(request, signal) {
  let head = { status: 0, headers: [] };
  const documents = [];
  for await (const step of sendRequest(request, key.value, signal)) {
    if (step.kind === "header") head.headers.push(step.header);
    else timeline.add(step);
    if (step.document) documents.push(step.document);
    if (step.kind === "responded") head = step;
    if (step.kind === "partial") await showPartial(step);
    if (step.kind === "failed") showFailure({ ...step, id: head.id });
    if (step.kind === "completed") await showCompleted(request, head, step);
    if (head.status) code.show({ ...head, documents });
  }
}

async function showPartial({ blob, document }) {
  announce(t("step_partial", { number: document.partial_image_index + 1 }));
  await result.showPartial(blob, document.partial_image_index);
}

async function showCompleted(request, head, step) {
  const facts = collectFacts(head, step.usage, performance.now() - timeline.startedAt);
  const pictures = await withSizes(step.images);
  result.showImages(pictures, facts, request.fields.prompt);
  timeline.add({ kind: "shown" });
  const pixels = pictures.map(({ width, height }) => `${width}×${height}`).join(", ");
  announce(t("step_done", { count: pictures.length, sizes: pixels, took: seconds(facts.took) }));
  const { fields, images, mask } = request;
  // Not awaited: the next request need not wait for the disk.
  history.add({ at: Date.now(), fields, images, mask, pictures, facts });
}

function showFailure(failed) {
  result.showError(failed);
  const { field } = describeError(failed);
  // Without scrolling to the field, so that the user reads the error first.
  if (field) focusField(field, { preventScroll: true });
  scrollToResult();
}

/** Shows an entry of the history, and fills in the form as it was. */
function showEntry({ fields, images, mask, pictures, facts }) {
  if (running) return;
  $("prompt").value = fields.prompt;
  $("model").value = fields.model;
  $("stream").checked = Boolean(fields.stream);
  $("partials").value = String(fields.partial_images ?? 2);
  $("count").value = String(fields.n ?? 1);
  $("compression").value = String(fields.output_compression ?? 90);
  checkOption("quality", fields.quality ?? "");
  checkOption("format", fields.output_format ?? "");
  sizes.value = fields.size;
  inputs.replace(images, mask);
  timeline.hide();
  code.show(null);
  result.showImages(pictures, facts, fields.prompt);
  $("result").focus();
  onChange();
}

/** Shows an entry of the history beside the result; without a result, as if it had been chosen. */
function compareEntry(entry) {
  if (running) return;
  if (!result.hasImages) return showEntry(entry);
  result.compareWith(entry.pictures, entry.fields.prompt);
  announce(t("compared", { prompt: shortened(entry.fields.prompt) }));
  $("result").focus();
}

function checkOption(name, value) {
  document.querySelector(`input[name="${name}"][value="${CSS.escape(value)}"]`).checked = true;
}

function setBusy(isBusy) {
  // Not `disabled`, which would remove the focus.
  $("generate").setAttribute("aria-disabled", String(isBusy));
  $("stop").hidden = !isBusy;
  $("result").setAttribute("aria-busy", String(isBusy));
}

/** Makes screen readers say a text. */
function announce(text) {
  $("announcer").textContent = text;
}

async function listModels() {
  if (key.isMissing || $("models").children.length) return;
  const names = await fetchModels(key.value);
  $("models").replaceChildren(...names.map((name) => new Option(name, name)));
}
