// The explain box: which pictures are found in a pasted chat reply, in which form, and why the rest was dropped.

import { diagnose } from "./client.js";
import { $, complain, el, icon } from "./dom.js";
import { explain } from "./faults.js";
import { bytes, t } from "./i18n.js";
import { decode, ending, measure, save, show } from "./pictures.js";

/** The server's words, and the names of these texts; what it says that is not here is shown as it is. */
const KINDS = {
  "plain words": "kind_words",
  "a JSON text": "kind_text",
  "a list of content parts": "kind_parts",
  "one choice": "kind_choice",
  "one message": "kind_message",
  "a body in JSON": "kind_body",
  "a stream of events": "kind_stream",
};
const REASONS = {
  "it is a small copy that leads to a page": "reason_small_copy",
  "the words around it say that it is not the result": "reason_words",
  "the reply is a video, and this its poster": "reason_poster",
  "it is cut off": "reason_cut",
  "it is a preview, an advertisement or the like beside the result": "reason_lesser",
  "it is no http or https address": "reason_address",
  "it stands where a picture belongs, but is none": "reason_stand_in",
  "it leads to a video": "reason_video",
  "it leads to a file that is not an image": "reason_file",
  "it is not base64": "reason_encoding",
  "its bytes are no image": "reason_bytes",
  "its bytes are cut off": "reason_bytes_cut",
  "it is a single pixel, which stands where a picture belongs": "reason_pixel",
};
const LONG = 200;

const said = (texts, words) => (texts[words] ? t(texts[words]) : words);
const shortened = (text) => (text.length <= LONG ? text : `${text.slice(0, LONG - 1)}…`);

export class Explainer {
  /** `key` is asked each time; `announce` tells screen readers. */
  constructor(key, announce) {
    this.key = key;
    this.announce = announce;
    this.told = null;
    $("explainer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    document.addEventListener("language", () => this.#write());
  }

  async #ask() {
    const reply = $("pasted").value;
    const missing = (!reply.trim() && "explain_empty") || (this.key.isMissing && "key_missing");
    this.told = null;
    this.#complain(missing ? t(missing) : null);
    this.#write();
    if (missing) return;
    const { failed, document } = await diagnose(reply, this.key.value);
    if (failed) {
      const { title, advice } = explain(failed);
      this.#complain(`${t(title)}. ${failed.error?.message ?? t(advice)}`);
      return;
    }
    this.told = { ...document, found: await Promise.all(document.found.map(withPicture)) };
    this.#write();
    const { found, dropped } = document;
    this.announce(
      `${t("explain_found", { count: found.length })}. ${t("explain_dropped", { count: dropped.length })}.`,
    );
  }

  #complain(text) {
    complain($("pasted"), $("pasted-fault"), text);
    if (text) $("pasted").focus();
  }

  #write() {
    $("findings").hidden = !this.told;
    if (!this.told) return;
    const { read_as: kind, complete, found, dropped, answer } = this.told;
    $("findings").replaceChildren(
      el("p", { className: "hint" }, t(complete ? "explain_read" : "explain_read_cut", { kind: said(KINDS, kind) })),
      ...list("explain_found", found, finding),
      ...list("explain_dropped", dropped, loss),
      ...(answer ? [el("h3", {}, t("explain_answer")), el("blockquote", {}, shortened(answer))] : []),
    );
  }
}

/** Pictures that are in the reply itself are shown. No link is followed: whoever wants to see it opens it. */
async function withPicture(image) {
  if (!image.url.startsWith("data:")) return image;
  const blob = decode(image.url.slice(image.url.indexOf(",") + 1));
  return { ...image, blob, ...(await measure(blob)) };
}

function list(title, items, write) {
  const head = el("h3", {}, t(title, { count: items.length }));
  return items.length ? [head, el("ul", {}, ...items.map(write))] : [head];
}

function finding(image) {
  const lesser = image.is_lesser ? el("small", {}, t("explain_lesser")) : null;
  const picture = image.width ? show(image.blob, t("explain_picture", { form: image.form })) : null;
  const about = el("div", { className: "about" }, el("code", {}, image.form), image.blob ? inside(image) : link(image));
  about.append(...(lesser ? [lesser] : []));
  return el("li", {}, picture, about);
}

function link({ url }) {
  if (!/^https?:\/\//.test(url)) return el("span", { className: "address" }, shortened(url));
  const properties = { href: url, target: "_blank", rel: "noopener noreferrer", className: "address" };
  return el("a", { ...properties, title: t("explain_link") }, shortened(url));
}

function inside({ blob, width, height }) {
  const format = blob.type.replace("image/", "").toUpperCase();
  const measured = [width ? `${width}×${height}` : null, format, bytes(blob.size)].filter(Boolean).join(" · ");
  const name = `limner-explained.${ending(blob.type)}`;
  const download = el("button", { type: "button", className: "link", onclick: () => save(blob, name) });
  download.append(icon("download"), t("download"));
  return el("span", { className: "tools" }, measured, download);
}

function loss({ form, candidate, reason }) {
  const why = el("span", {}, el("code", {}, form), ` ${said(REASONS, reason)}`);
  return el("li", { className: "lost" }, why, el("span", { className: "address" }, shortened(candidate)));
}
