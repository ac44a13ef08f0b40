// What came of a request: the pictures with all that is known of them, or what went wrong.

import { $, el, icon } from "./dom.js";
import { explain } from "./faults.js";
import { bytes, number, seconds, t } from "./i18n.js";
import { ending, measure, save, show } from "./pictures.js";

export class Outcome {
  /** `use` is called with a picture that is to be edited. */
  constructor(use) {
    this.use = use;
    this.now = { state: "empty" };
    document.addEventListener("language", () => this.#write());
    this.#write();
  }

  wait(size) {
    const [width, height] = size.includes("x") ? size.split("x").map(Number) : [1, 1];
    this.#change({ state: "waiting", width, height });
  }

  async partial(blob, index) {
    const image = show(blob, t("partial", { number: index + 1 }));
    await image.decode().catch(() => null);
    if (this.now.state !== "waiting") return;
    this.now.image = image;
    $("stage").querySelector(".canvas-wait")?.replaceChildren(image);
  }

  /** `pictures` with blob, width and height; `facts` as of the history. */
  done(pictures, facts, prompt) {
    this.#change({ state: "done", pictures, facts, prompt });
  }

  fail(failed) {
    this.#change({ state: "failed", failed });
  }

  empty() {
    this.#change({ state: "empty" });
  }

  #change(now) {
    this.now = now;
    this.#write();
  }

  #write() {
    const { state, failed, pictures, facts, prompt } = this.now;
    $("failure").hidden = state !== "failed";
    $("failure").replaceChildren(...(state === "failed" ? failure(failed) : []));
    $("facts").hidden = state !== "done";
    $("facts").replaceChildren(...(state === "done" ? factList(facts) : []));
    $("stage").hidden = state === "failed";
    $("stage").className = `stage ${state}${pictures?.length > 1 ? " several" : ""}`;
    if (state === "empty") $("stage").replaceChildren(el("p", {}, t("empty")));
    if (state === "waiting") $("stage").replaceChildren(this.#canvas());
    if (state === "done") {
      $("stage").replaceChildren(...pictures.map((picture, at) => this.#figure(picture, at, prompt)));
    }
  }

  /** A sheet of the shape that was asked for. */
  #canvas() {
    const sheet = el("div", { className: "canvas-wait" }, this.now.image ?? null);
    sheet.style.aspectRatio = `${this.now.width} / ${this.now.height}`;
    sheet.style.setProperty("--ratio", String(this.now.width / this.now.height));
    return sheet;
  }

  #figure({ blob, width, height }, at, prompt) {
    const name = `limner-${at + 1}.${ending(blob.type)}`;
    const image = show(blob, prompt);
    if (width) Object.assign(image, { width, height });
    const format = blob.type.replace("image/", "").toUpperCase();
    const measured = [width ? `${width}×${height}` : null, format, bytes(blob.size)].filter(Boolean).join(" · ");
    const download = el("button", { type: "button", className: "plain", onclick: () => save(blob, name) });
    download.append(icon("download"), t("download"));
    const edit = el("button", { type: "button", className: "plain", onclick: () => this.use(blob) });
    edit.append(icon("edit"), t("edit_this"));
    const caption = el("figcaption", {}, el("span", {}, measured), el("span", { className: "tools" }, edit, download));
    return el("figure", {}, image, caption);
  }
}

/** Adds to each picture what its bytes tell. */
export const measured = (pictures) =>
  Promise.all(pictures.map(async (picture) => ({ ...picture, ...(await measure(picture.blob)) })));

/** What the headers, the usage and the clock tell; what nobody told is left out. */
export function gather(answer, usage, took) {
  const headers = Object.fromEntries(answer.headers);
  return {
    took,
    painter: headers["x-limner-upstream"],
    upstream: headers["x-limner-upstream-ms"],
    overhead: headers["x-limner-overhead-ms"],
    form: headers["x-limner-reply-form"],
    tokens: usage && [usage.input_tokens, usage.output_tokens],
    failed: headers["x-limner-failed"],
    ignored: headers["x-limner-ignored"],
    shrunk: headers["x-limner-shrunk"],
    joined: headers["x-limner-joined"],
    id: headers["x-request-id"],
  };
}

const ROWS = {
  took: seconds,
  painter: String,
  upstream: (ms) => seconds(Number(ms)),
  overhead: (ms) => `${number(Number(ms), { maximumFractionDigits: 1 })} ms`,
  form: String,
  tokens: ([given, made]) => t("tokens_of", { given: number(given), made: number(made) }),
  failed: String,
  ignored: String,
  shrunk: String,
  joined: String,
  id: String,
};

function factList(facts) {
  return Object.entries(ROWS)
    .filter(([name]) => facts[name] !== undefined && facts[name] !== null)
    .map(([name, say]) =>
      el("div", { className: name }, el("dt", {}, t(`fact_${name}`)), el("dd", {}, say(facts[name]))),
    );
}

function failure(failed) {
  const { title, advice } = explain(failed);
  const said = failed.error?.message;
  return [
    el("h3", {}, t(title)),
    el("p", {}, t(advice)),
    said ? el("blockquote", {}, said) : null,
    failed.id ? el("p", { className: "hint" }, t("request_id"), " ", el("code", {}, failed.id)) : null,
  ].filter(Boolean);
}
