// The history of results in this browser's own storage (IndexedDB), limited in number and size.

import { $, el, icon } from "./dom.js";
import { t, time } from "./i18n.js";
import { imageElement } from "./image-files.js";

const MAX_ENTRIES = 60;
const MAX_BYTES = 256e6;

export class History {
  /**
   * `onChoose` is called with the chosen entry: `{at, fields, images, mask, pictures, facts}`. Browsers have stored
   * these names: do not rename them. `onCompare` is called with an entry to show beside the present result.
   */
  constructor(onChoose, onCompare) {
    this.onChoose = onChoose;
    this.onCompare = onCompare;
    this.entries = [];
    $("clear-history").addEventListener("click", () => this.#clear());
    document.addEventListener("language", () => this.#write());
  }

  /** Without storage (a private window, a full disk) the page works without a history. */
  async open() {
    try {
      this.database = await openDatabase();
      this.entries = (await this.#run("readonly", (store) => store.getAll())).reverse();
    } catch {
      this.database = null;
    }
    this.#write();
  }

  async add(entry) {
    const kept = withinLimits([entry, ...this.entries]);
    const dropped = this.entries.filter((each) => !kept.includes(each));
    await this.#change(kept, (store) => {
      store.put(entry);
      for (const { at } of dropped) store.delete(at);
    });
  }

  async #remove(entry) {
    const at = this.entries.indexOf(entry);
    const rest = this.entries.filter((each) => each !== entry);
    await this.#change(rest, (store) => store.delete(entry.at));
    const next = $("history").children[Math.min(at, this.entries.length - 1)];
    (next?.querySelector("button") ?? $("prompt")).focus();
  }

  async #clear() {
    await this.#change([], (store) => store.clear());
    $("prompt").focus();
  }

  /** Changes the storage first: an entry that disappears from the page is really deleted. */
  async #change(entries, work) {
    try {
      await this.#run("readwrite", work);
    } catch {
      // The disk is full, or the browser has removed the storage: the page works on without it.
      this.database = null;
    }
    this.entries = entries;
    this.#write();
  }

  #run(mode, work) {
    if (!this.database) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction("entries", mode);
      const request = work(transaction.objectStore("entries"));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }

  #write() {
    $("history-section").hidden = this.entries.length === 0;
    $("history").replaceChildren(...this.entries.map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const label = t("history_entry", { prompt: shortened(entry.fields.prompt), at: time(entry.at) });
    const image = imageElement(entry.pictures[0].blob, "");
    const choose = el("button", {
      type: "button",
      title: label,
      "aria-label": label,
      onclick: () => this.onChoose(entry),
    });
    choose.append(image);
    const compare = tool("compare", "swap", t("compare", { name: label }), () => this.onCompare(entry));
    const remove = tool("remove", "close", t("remove", { name: label }), () => this.#remove(entry));
    return el("li", {}, choose, compare, remove);
  }
}

/** Returns the beginning of a long text: screen readers read it for each image of the history. */
export const shortened = (text) => (text.length > 80 ? `${text.slice(0, 79).trimEnd()}…` : text);

/** Creates a small button over an image of the history. */
function tool(className, iconName, label, onclick) {
  const properties = { type: "button", className: `plain square ${className}`, title: label, "aria-label": label };
  return el("button", { ...properties, onclick }, icon(iconName));
}

/** Returns the newest entries within the limits; the first one always. */
function withinLimits(entries) {
  let size = 0;
  return entries.slice(0, MAX_ENTRIES).filter((entry, at) => {
    const blobs = [...entry.pictures.map(({ blob }) => blob), ...entry.images, entry.mask];
    size += blobs.reduce((sum, blob) => sum + (blob?.size ?? 0), 0);
    return at === 0 || size <= MAX_BYTES;
  });
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("limner", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("entries", { keyPath: "at" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
