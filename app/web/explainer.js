// The explain box: which images a pasted chat reply holds, in which form, and why other candidates were rejected.

import { explainReply } from "./client.js";
import { $, el, icon, showFieldError } from "./dom.js";
import { describeError } from "./errors.js";
import { formName, t } from "./i18n.js";
import { decodeImage, describeFile, downloadFile, fileExtension, imageElement, measureImage } from "./image-files.js";

/** Words of the server and the names of their texts. Words that are not in this table are shown as they are. */
const KINDS = {
  "plain words": "kind_words",
  "a JSON text": "kind_text",
  "a list of content parts": "kind_parts",
  "one choice": "kind_choice",
  "one message": "kind_message",
  "a body in JSON": "kind_body",
  "a stream of events": "kind_stream",
  "an image": "kind_image",
};
const REASONS = {
  "it is a small copy that leads to a page": "reason_small_copy",
  "the words around it say that it is not the result": "reason_words",
  "it is the poster of a video": "reason_poster",
  "it is cut off": "reason_cut",
  "it is a smaller copy of the result": "reason_smaller",
  "it stands in a command": "reason_command",
  "it is a preview, an advertisement or the like beside the result": "reason_lesser",
  "the model declines, and the image is for another purpose": "reason_declined",
  "it is no http or https address": "reason_address",
  "it stands where a picture belongs, but is none": "reason_stand_in",
  "its host has photos and icons of others": "reason_others",
  "it leads to a video": "reason_video",
  "it leads to a file that is not an image": "reason_file",
  "it is not base64": "reason_encoding",
  "its bytes are no image": "reason_bytes",
  "its bytes are cut off": "reason_bytes_cut",
  "it is a single pixel, which stands where a picture belongs": "reason_pixel",
};
const MAX_TEXT = 200;

const translate = (texts, words) => (texts[words] ? t(texts[words]) : words);
const shorten = (text) => (text.length <= MAX_TEXT ? text : `${text.slice(0, MAX_TEXT - 1)}…`);

export class ReplyExplainer {
  /** `key` is the ApiKeyField; `announce` is called with texts for screen readers. */
  constructor(key, announce) {
    this.key = key;
    this.announce = announce;
    this.report = null;
    $("explainer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#explain();
    });
    document.addEventListener("language", () => this.#write());
  }

  async #explain() {
    const reply = $("pasted").value;
    const missing = (!reply.trim() && "explain_empty") || (this.key.isMissing && "key_missing");
    this.report = null;
    this.#showError(missing ? t(missing) : null);
    this.#write();
    if (missing) return;
    const { failed, document } = await explainReply(reply, this.key.value);
    if (failed) {
      const { title, advice } = describeError(failed);
      this.#showError(`${t(title)}. ${failed.error?.message ?? t(advice)}`);
      return;
    }
    this.report = { ...document, found: await Promise.all(document.found.map(withFile)) };
    this.#write();
    const { found, dropped } = document;
    this.announce(
      `${t("explain_found", { count: found.length })}. ${t("explain_rejected", { count: dropped.length })}.`,
    );
  }

  #showError(text) {
    showFieldError($("pasted"), $("pasted-error"), text);
    if (text) $("pasted").focus();
  }

  #write() {
    $("findings").hidden = !this.report;
    if (!this.report) return;
    const { read_as: kind, complete, found, guessed, dropped, answer } = this.report;
    const readAs = t(complete ? "explain_read" : "explain_read_cut", { kind: translate(KINDS, kind) });
    $("findings").replaceChildren(
      el("p", { className: "hint" }, readAs),
      ...list("explain_found", found, foundItem),
      ...(guessed.length && !found.length ? list("explain_guessed", guessed, foundItem) : []),
      ...list("explain_rejected", dropped, rejectedItem),
      ...(answer ? [el("h3", {}, t("explain_response")), el("blockquote", {}, shorten(answer))] : []),
    );
  }
}

/** Decodes images that are in the reply itself. Links are not followed: the user can open them. */
async function withFile(image) {
  if (!image.url.startsWith("data:")) return image;
  const blob = decodeImage(image.url.slice(image.url.indexOf(",") + 1));
  return { ...image, blob, ...(await measureImage(blob)) };
}

function list(title, items, write) {
  const head = el("h3", {}, t(title, { count: items.length }));
  return items.length ? [head, el("ul", {}, ...items.map(write))] : [head];
}

function foundItem(image) {
  const secondary = image.is_lesser ? el("small", {}, t("explain_secondary")) : null;
  const shown = image.width ? imageElement(image.blob, t("explain_image", { form: formName(image.form) })) : null;
  const source = image.blob ? fileLine(image) : link(image);
  return el("li", {}, shown, el("div", { className: "about" }, el("code", {}, image.form), source, secondary));
}

function link({ url }) {
  if (!/^https?:\/\//.test(url)) return el("span", { className: "address" }, shorten(url));
  const properties = { href: url, target: "_blank", rel: "noopener noreferrer", className: "address" };
  return el("a", { ...properties, title: t("explain_link") }, shorten(url));
}

function fileLine(image) {
  const name = `limner-explained.${fileExtension(image.blob.type)}`;
  const download = el("button", {
    type: "button",
    className: "link",
    onclick: () => downloadFile(image.blob, name),
  });
  download.append(icon("download"), t("download"));
  return el("span", { className: "tools" }, describeFile(image), download);
}

function rejectedItem({ form, candidate, reason }) {
  const why = el("span", {}, el("code", {}, form), ` ${translate(REASONS, reason)}`);
  return el("li", { className: "rejected" }, why, el("span", { className: "address" }, shorten(candidate)));
}
