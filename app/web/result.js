// The result of a request: the images with all that is known about them, or the error.

import { $, el, icon } from "./dom.js";
import { describeError } from "./errors.js";
import { formName, money, number, seconds, t } from "./i18n.js";
import { describeFile, downloadFile, fileExtension, imageElement, measureImage } from "./image-files.js";
import { showFullSize } from "./viewer.js";

/** Milliseconds that most upstreams need at most. The texts of the page name the same time. */
const USUAL_TIME = 120_000;

export class ResultView {
  /** `onEdit` is called with the image that the user wants to edit. */
  constructor(onEdit) {
    this.onEdit = onEdit;
    this.current = { state: "empty" };
    document.addEventListener("language", () => this.#write());
    this.#write();
  }

  showWaiting(size) {
    const [width, height] = size.includes("x") ? size.split("x").map(Number) : [1, 1];
    this.#change({ state: "waiting", width, height });
  }

  async showPartial(blob, index) {
    const image = imageElement(blob, t("partial", { number: index + 1 }));
    await image.decode().catch(() => null);
    if (this.current.state !== "waiting") return;
    this.current.image = image;
    $("stage").querySelector(".placeholder")?.replaceChildren(image);
  }

  /** `passed`: milliseconds since the request was sent. */
  showElapsed(passed) {
    if (this.current.state !== "waiting") return;
    const name = passed > USUAL_TIME ? "waiting_long" : "waiting";
    $("elapsed").textContent = t(name, { seconds: Math.floor(passed / 1000) });
  }

  /** `images` have a blob, width and height; `facts` are those of collectFacts. */
  showImages(images, facts, prompt) {
    this.#change({ state: "done", images, facts, prompt });
  }

  get hasImages() {
    return this.current.state === "done";
  }

  /** Shows images of another result beside the present ones, in place of those of an earlier comparison. */
  compareWith(images, prompt) {
    this.#change({ ...this.current, others: images.map((image) => ({ ...image, prompt })) });
  }

  showError(failed) {
    this.#change({ state: "failed", failed });
  }

  showEmpty() {
    this.#change({ state: "empty" });
  }

  #change(current) {
    this.current = current;
    this.#write();
  }

  #write() {
    const { state, failed, images = [], others = [], facts, prompt } = this.current;
    const shown = [...images.map((image) => ({ ...image, prompt })), ...others];
    $("failure").hidden = state !== "failed";
    $("failure").replaceChildren(...(state === "failed" ? errorMessage(failed) : []));
    // The facts are those of one result only.
    $("facts").hidden = state !== "done" || others.length > 0;
    $("facts").replaceChildren(...(state === "done" ? factList(facts) : []));
    $("stage").hidden = state === "failed";
    $("stage").className = `stage ${state}${shown.length > 1 ? " several" : ""}`;
    if (state === "empty") $("stage").replaceChildren(el("p", {}, t("empty")));
    if (state === "waiting") {
      $("stage").replaceChildren(this.#placeholder(), el("p", { id: "elapsed", className: "hint" }));
    }
    if (state === "done") {
      $("stage").replaceChildren(...shown.map((image, at) => this.#figure(image, at, others.length > 0)));
    }
  }

  /** An area with the requested aspect ratio, for partial images. */
  #placeholder() {
    const area = el("div", { className: "placeholder" }, this.current.image ?? null);
    area.style.aspectRatio = `${this.current.width} / ${this.current.height}`;
    area.style.setProperty("--ratio", String(this.current.width / this.current.height));
    return area;
  }

  #figure({ blob, width, height, prompt }, at, hasPrompt) {
    const name = `limner-${at + 1}.${fileExtension(blob.type)}`;
    const image = imageElement(blob, prompt);
    if (width) Object.assign(image, { width, height });
    const file = describeFile({ blob, width, height });
    const enlarge = () => showFullSize({ blob, width, height }, prompt);
    image.addEventListener("click", enlarge);
    const tools = [
      tool("enlarge", "full_size", enlarge),
      tool("edit", "edit_this", () => this.onEdit(blob)),
      tool("download", "download", () => downloadFile(blob, name)),
    ];
    const caption = el("figcaption", {}, el("span", {}, file), el("span", { className: "tools" }, ...tools));
    return el("figure", {}, hasPrompt ? el("p", { className: "hint" }, prompt) : null, image, caption);
  }
}

/** Creates a button below an image. */
function tool(iconName, textName, onclick) {
  const button = el("button", { type: "button", className: "plain", onclick });
  button.append(icon(iconName), t(textName));
  return button;
}

/** Adds the measured width and height to each image. */
export const withSizes = (images) =>
  Promise.all(images.map(async (image) => ({ ...image, ...(await measureImage(image.blob)) })));

/** Collects what headers and usage say about a result. `took`: milliseconds. The history stores these names. */
export function collectFacts(head, usage, took) {
  const headers = Object.fromEntries(head.headers);
  return {
    took,
    painter: headers["x-limner-upstream"],
    upstream: headers["x-limner-upstream-ms"],
    overhead: headers["x-limner-overhead-ms"],
    form: headers["x-limner-reply-form"],
    cost: headers["x-limner-cost"] && [headers["x-limner-cost"], headers["x-limner-currency"]],
    tokens: usage && [usage.input_tokens, usage.output_tokens],
    failed: headers["x-limner-failed"],
    size: headers["x-limner-size"],
    ignored: headers["x-limner-ignored"],
    shrunk: headers["x-limner-shrunk"],
    joined: headers["x-limner-joined"],
    id: headers["x-request-id"],
  };
}

/** How each fact is written, in the order of the list. */
const FACTS = {
  took: seconds,
  painter: String,
  upstream: (ms) => seconds(Number(ms)),
  overhead: (ms) => `${number(Number(ms), { maximumFractionDigits: 1 })} ms`,
  form: (forms) => forms.split(", ").map(formName).join(", "),
  tokens: ([input, output]) => t("tokens_of", { input: number(input), output: number(output) }),
  cost: ([amount, currency]) => money(amount, currency),
  failed: String,
  size: String,
  ignored: String,
  shrunk: String,
  joined: String,
  id: String,
};

function factList(facts) {
  return Object.entries(FACTS)
    .filter(([name]) => facts[name] !== undefined && facts[name] !== null)
    .map(([name, format]) =>
      el("div", { className: name }, el("dt", {}, t(`fact_${name}`)), el("dd", {}, format(facts[name]))),
    );
}

function errorMessage(failed) {
  const { title, advice } = describeError(failed);
  const message = failed.error?.message;
  return [
    el("h3", {}, t(title)),
    el("p", {}, t(advice)),
    message ? el("blockquote", {}, message) : null,
    failed.id ? el("p", { className: "hint" }, t("request_id"), " ", el("code", {}, failed.id)) : null,
  ].filter(Boolean);
}
