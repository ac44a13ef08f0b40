// The size picker: tiles that show the aspect ratio, and two fields that are checked against the rules.

import { $, checkedValue, el, svg } from "./dom.js";
import { number, t } from "./i18n.js";
import { PRESETS, brokenRule, nearest, ratioName } from "./sizes.js";

const DEFAULT = "1536x1024";

export class SizePicker {
  /** `rules` are those of server.json. `onChange` is called after every choice. */
  constructor(rules, onChange) {
    this.rules = rules;
    this.onChange = onChange;
    $("sizes").append(...PRESETS.map(([value, name]) => this.#tile(value, name)));
    for (const id of ["width", "height"]) $(id).addEventListener("input", () => this.#show());
    $("sizes").addEventListener("change", () => this.#show());
    $("swap").addEventListener("click", () => this.#write($("height").value, $("width").value));
    $("nearest").addEventListener("click", () => {
      this.#write(...nearest(...this.#pixels(), this.rules));
      $("width").focus();
    });
    document.addEventListener("language", () => this.#show());
    this.#show();
  }

  /** The `size` parameter; `auto` lets the model choose. */
  get value() {
    const value = checkedValue("size");
    if (value === "custom") return this.#pixels().join("x");
    return value || "auto";
  }

  set value(size) {
    const preset = size === "auto" ? "" : size;
    const tile = document.querySelector(`input[name="size"][value="${CSS.escape(preset)}"]`);
    (tile ?? document.querySelector('input[name="size"][value="custom"]')).checked = true;
    if (tile) this.#show();
    else this.#write(...size.split("x"));
  }

  /** The message about the rule that the size breaks, or null. */
  get error() {
    if (checkedValue("size") !== "custom") return null;
    const rule = brokenRule(...this.#pixels(), this.rules);
    return rule && t(rule, this.#blanks());
  }

  #pixels() {
    return [$("width").valueAsNumber, $("height").valueAsNumber];
  }

  #blanks() {
    const { multiple, min_edge: least, max_edge: edge, max_aspect_ratio: ratio, min_pixels, max_pixels } = this.rules;
    return { multiple, least, edge, ratio, min: number(min_pixels), max: number(max_pixels) };
  }

  #write(width, height) {
    $("width").value = width;
    $("height").value = height;
    this.#show();
  }

  #tile(value, name) {
    const [width, height] = value.includes("x") ? value.split("x").map(Number) : [0, 0];
    const text = value === "" || value === "custom" ? el("b", { "data-i18n": name }, t(name)) : el("b", {}, name);
    const input = el("input", { type: "radio", name: "size", value, checked: value === DEFAULT });
    const pixels = el("small", {}, width ? `${width}×${height}` : " ");
    return el("label", { className: "tile" }, input, outline(width, height, value), text, pixels);
  }

  #show() {
    const custom = checkedValue("size") === "custom";
    $("custom").hidden = !custom;
    if (custom) this.#check();
    this.onChange();
  }

  #check() {
    const [width, height] = this.#pixels();
    const error = this.error;
    const near = error && nearest(width, height, this.rules);
    $("size-rule").textContent = error ?? this.#describe(width, height);
    $("size-rule").classList.toggle("error", Boolean(error));
    for (const id of ["width", "height"]) $(id).setAttribute("aria-invalid", String(Boolean(error)));
    $("nearest").hidden = !near;
    if (near) $("nearest").textContent = t("use_size", { size: near.join("×") });
    if (width > 0 && height > 0) drawShape($("shape").firstElementChild, width, height, this.rules.max_edge);
  }

  #describe(width, height) {
    if (this.rules.legacy.includes(`${width}x${height}`)) return t("size_legacy");
    const megapixels = number((width * height) / 1e6, { maximumFractionDigits: 2 });
    return t("size_good", { ratio: ratioName(width, height), megapixels });
  }
}

/** Draws the outline of a size, to scale, but never too small to recognize. */
function outline(width, height, value) {
  const frame = svg("svg", { viewBox: "0 0 36 36", "aria-hidden": "true" });
  const rect = svg("rect", { rx: 1.5 });
  if (width) {
    const edge = 19 + (13 * Math.max(width, height)) / 3840;
    place(rect, width, height, edge, 36);
  } else {
    place(rect, 1, 1, 20, 36);
    rect.setAttribute("stroke-dasharray", value ? "2 3" : "5 3");
  }
  frame.append(rect);
  return frame;
}

function drawShape(rect, width, height, longest) {
  const ratio = Math.min(8, Math.max(1 / 8, width / height));
  const edge = 18 + 48 * Math.min(1, Math.max(width, height) / longest);
  place(rect, ratio, 1, edge, 72);
}

function place(rect, width, height, edge, space) {
  const scale = edge / Math.max(width, height);
  const [w, h] = [width * scale, height * scale];
  const box = { x: (space - w) / 2, y: (space - h) / 2, width: w, height: h };
  for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value.toFixed(2));
}
