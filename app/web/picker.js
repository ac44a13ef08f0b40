// The size picker: tiles that show the shape, and two fields that know the rules.

import { $, chosen, el, svg } from "./dom.js";
import { number, t } from "./i18n.js";
import { PRESETS, brokenRule, nearest, ratioName } from "./sizes.js";

const START = "1536x1024";

export class SizePicker {
  /** `rules` as in server.json; `changed` is called after every choice. */
  constructor(rules, changed) {
    this.rules = rules;
    this.changed = changed;
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

  /** As the API wants it: `auto` where the model may choose. */
  get value() {
    const value = chosen("size");
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

  /** The text of the rule that the size breaks, or null. */
  get fault() {
    if (chosen("size") !== "custom") return null;
    const rule = brokenRule(...this.#pixels(), this.rules);
    return rule && t(rule, this.#blanks());
  }

  #pixels() {
    return [$("width").valueAsNumber, $("height").valueAsNumber];
  }

  #blanks() {
    const { step, longest_edge: edge, ratio, least_pixels: least, most_pixels: most } = this.rules;
    return { step, edge, ratio, least: number(least), most: number(most) };
  }

  #write(width, height) {
    $("width").value = width;
    $("height").value = height;
    this.#show();
  }

  #tile(value, name) {
    const [width, height] = value.includes("x") ? value.split("x").map(Number) : [0, 0];
    const text = value === "" || value === "custom" ? el("b", { "data-i18n": name }, t(name)) : el("b", {}, name);
    const input = el("input", { type: "radio", name: "size", value, checked: value === START });
    const pixels = el("small", {}, width ? `${width}×${height}` : " ");
    return el("label", { className: "tile" }, input, outline(width, height, value), text, pixels);
  }

  #show() {
    const custom = chosen("size") === "custom";
    $("custom").hidden = !custom;
    if (custom) this.#judge();
    this.changed();
  }

  #judge() {
    const [width, height] = this.#pixels();
    const fault = this.fault;
    const near = fault && nearest(width, height, this.rules);
    $("size-rule").textContent = fault ?? this.#praise(width, height);
    $("size-rule").classList.toggle("fault", Boolean(fault));
    for (const id of ["width", "height"]) $(id).setAttribute("aria-invalid", String(Boolean(fault)));
    $("nearest").hidden = !near;
    if (near) $("nearest").textContent = t("use_size", { size: near.join("×") });
    if (width > 0 && height > 0) drawShape($("shape").firstElementChild, width, height, this.rules.longest_edge);
  }

  #praise(width, height) {
    if (this.rules.legacy.includes(`${width}x${height}`)) return t("size_legacy");
    const megapixels = number((width * height) / 1e6, { maximumFractionDigits: 2 });
    return t("size_good", { ratio: ratioName(width, height), megapixels });
  }
}

/** To scale among each other, but not so small that a shape is lost. */
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

function place(rect, width, height, edge, room) {
  const scale = edge / Math.max(width, height);
  const [w, h] = [width * scale, height * scale];
  const box = { x: (room - w) / 2, y: (room - h) / 2, width: w, height: h };
  for (const [name, value] of Object.entries(box)) rect.setAttribute(name, value.toFixed(2));
}
