// The input images: dropped, pasted or chosen, with a mask for the first one.

import { $, el, icon, showFieldError } from "./dom.js";
import { bytes, t } from "./i18n.js";
import { MaskEditor } from "./mask.js";
import { imageElement, measureImage } from "./image-files.js";

const MAX_IMAGES = 16;

export class InputImages {
  /** `maxBytes` is the limit of one image. `onChange` is called after every change. */
  constructor(maxBytes, onChange) {
    this.maxBytes = maxBytes;
    this.onChange = onChange;
    this.files = [];
    this.mask = null;
    this.editor = new MaskEditor();
    $("add-input").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", async () => {
      await this.add($("files").files);
      $("files").value = "";
    });
    document.addEventListener("paste", (event) => this.#onTransfer(event, event.clipboardData));
    document.addEventListener("drop", (event) => this.#onTransfer(event, event.dataTransfer));
    document.addEventListener("dragover", (event) => this.#onDrag(event, event.dataTransfer.types.includes("Files")));
    document.addEventListener("dragleave", (event) => this.#onDrag(event, event.relatedTarget !== null));
    document.addEventListener("language", () => this.#write());
  }

  get images() {
    return this.files.map(({ blob }) => blob);
  }

  /** Adds the files that are images, and shows an error for others. */
  async add(files) {
    showFieldError($("add-input"), $("inputs-error"), null);
    for (const blob of files) {
      const size = await measureImage(blob);
      if (size.width === null) this.#showError(t("not_an_image", { name: blob.name ?? "" }));
      else if (blob.size > this.maxBytes)
        this.#showError(t("too_large", { name: blob.name ?? "", limit: bytes(this.maxBytes) }));
      else if (this.files.length >= MAX_IMAGES) this.#showError(t("too_many", { max: MAX_IMAGES }));
      else this.files.push({ blob, ...size });
    }
    this.#write();
  }

  replace(images, mask) {
    this.files = [];
    this.mask = mask;
    return this.add(images);
  }

  #showError(text) {
    showFieldError($("add-input"), $("inputs-error"), text);
  }

  #onTransfer(event, transfer) {
    this.#onDrag(event, false);
    if (!transfer?.files.length) return;
    event.preventDefault();
    this.add([...transfer.files]);
  }

  #onDrag(event, over) {
    if (event.type.startsWith("drag")) event.preventDefault();
    document.body.classList.toggle("over", over);
  }

  #write() {
    $("inputs").replaceChildren(...this.files.map((file, at) => this.#item(file, at)));
    this.onChange();
  }

  #item({ blob, width, height }, at) {
    const name = t("input", { number: at + 1 });
    const remove = el(
      "button",
      { type: "button", className: "plain square", onclick: () => this.#remove(at) },
      icon("close"),
    );
    remove.setAttribute("aria-label", t("remove", { name }));
    const size = el("small", {}, `${width}×${height}, ${bytes(blob.size)}`);
    const tools = at === 0 ? el("span", { className: "tools" }, ...this.#maskTools()) : null;
    return el("li", {}, imageElement(blob, name), el("span", { className: "about" }, size, tools), remove);
  }

  #maskTools() {
    const draw = el("button", {
      type: "button",
      id: "draw-mask",
      className: "link",
      onclick: () => this.#drawMask(),
    });
    draw.append(icon("brush"), t(this.mask ? "edit_mask" : "draw_mask"));
    const remove = el(
      "button",
      { type: "button", className: "link", onclick: () => this.#setMask(null) },
      t("remove_mask"),
    );
    return this.mask ? [draw, remove] : [draw];
  }

  #remove(at) {
    this.files.splice(at, 1);
    if (at === 0) this.mask = null;
    showFieldError($("add-input"), $("inputs-error"), null);
    this.#write();
    $("add-input").focus();
  }

  async #drawMask() {
    const { blob } = this.files[0];
    const mask = await this.editor.edit(blob, this.mask);
    if (mask !== undefined && this.files[0]?.blob === blob) this.#setMask(mask);
  }

  #setMask(mask) {
    this.mask = mask;
    this.#write();
    $("draw-mask")?.focus();
  }
}
