// Pictures to start from: dropped, pasted or chosen, with the mask of the first.

import { $, complain, el, icon } from "./dom.js";
import { bytes, t } from "./i18n.js";
import { MaskEditor } from "./mask.js";
import { measure, show } from "./pictures.js";

const MOST = 16;

export class Inputs {
  /** `limit` in bytes of one picture; `changed` is called after every change. */
  constructor(limit, changed) {
    this.limit = limit;
    this.changed = changed;
    this.pictures = [];
    this.mask = null;
    this.editor = new MaskEditor();
    $("add-input").addEventListener("click", () => $("files").click());
    $("files").addEventListener("change", async () => {
      await this.add($("files").files);
      $("files").value = "";
    });
    document.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    document.addEventListener("drop", (event) => this.#take(event, event.dataTransfer));
    document.addEventListener("dragover", (event) => this.#hover(event, event.dataTransfer.types.includes("Files")));
    document.addEventListener("dragleave", (event) => this.#hover(event, event.relatedTarget !== null));
    document.addEventListener("language", () => this.#write());
  }

  get images() {
    return this.pictures.map((picture) => picture.blob);
  }

  /** Takes what is a picture, and says what is not. */
  async add(files) {
    complain($("add-input"), $("inputs-fault"), null);
    for (const blob of files) {
      const size = await measure(blob);
      if (size.width === null) this.#refuse(t("not_a_picture", { name: blob.name ?? "" }));
      else if (blob.size > this.limit)
        this.#refuse(t("too_large", { name: blob.name ?? "", limit: bytes(this.limit) }));
      else if (this.pictures.length >= MOST) this.#refuse(t("too_many", { most: MOST }));
      else this.pictures.push({ blob, ...size });
    }
    this.#write();
  }

  replace(images, mask) {
    this.pictures = [];
    this.mask = mask;
    return this.add(images);
  }

  #refuse(text) {
    complain($("add-input"), $("inputs-fault"), text);
  }

  #take(event, transfer) {
    this.#hover(event, false);
    if (!transfer?.files.length) return;
    event.preventDefault();
    this.add([...transfer.files]);
  }

  #hover(event, over) {
    if (event.type.startsWith("drag")) event.preventDefault();
    document.body.classList.toggle("over", over);
  }

  #write() {
    $("inputs").replaceChildren(...this.pictures.map((picture, at) => this.#item(picture, at)));
    this.changed();
  }

  #item({ blob, width, height }, at) {
    const name = t("input", { number: at + 1 });
    const remove = el(
      "button",
      { type: "button", className: "plain square", onclick: () => this.#remove(at) },
      icon("close"),
    );
    remove.setAttribute("aria-label", t("remove", { name }));
    const facts = el("small", {}, `${width}×${height}, ${bytes(blob.size)}`);
    const tools = at === 0 ? el("span", { className: "tools" }, ...this.#maskTools()) : null;
    return el("li", {}, show(blob, name), el("span", { className: "about" }, facts, tools), remove);
  }

  #maskTools() {
    const paint = el("button", {
      type: "button",
      id: "paint-mask",
      className: "link",
      onclick: () => this.#paintMask(),
    });
    paint.append(icon("brush"), t(this.mask ? "change_mask" : "paint_mask"));
    const drop = el(
      "button",
      { type: "button", className: "link", onclick: () => this.#setMask(null) },
      t("drop_mask"),
    );
    return this.mask ? [paint, drop] : [paint];
  }

  #remove(at) {
    this.pictures.splice(at, 1);
    if (at === 0) this.mask = null;
    complain($("add-input"), $("inputs-fault"), null);
    this.#write();
    $("add-input").focus();
  }

  async #paintMask() {
    const { blob } = this.pictures[0];
    const mask = await this.editor.edit(blob, this.mask);
    if (mask !== undefined && this.pictures[0]?.blob === blob) this.#setMask(mask);
  }

  #setMask(mask) {
    this.mask = mask;
    this.#write();
    $("paint-mask")?.focus();
  }
}
