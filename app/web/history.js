// The pictures of before, in this browser's own storage (IndexedDB): bounded, and forgotten on demand.

import { $, el, icon } from "./dom.js";
import { t, time } from "./i18n.js";
import { show } from "./pictures.js";

const MOST = 60;
const MOST_BYTES = 256e6;

export class History {
  /** `choose` is called with the entry that was picked: `{at, fields, images, mask, pictures, facts}`. */
  constructor(choose) {
    this.choose = choose;
    this.entries = [];
    $("forget").addEventListener("click", () => this.#forgetAll());
    document.addEventListener("language", () => this.#write());
  }

  /** Without storage (a private window, a full disk) the page works on without a history. */
  async open() {
    try {
      this.base = await openBase();
      this.entries = (await this.#run("readonly", (store) => store.getAll())).reverse();
    } catch {
      this.base = null;
    }
    this.#write();
  }

  async add(entry) {
    const kept = withinBounds([entry, ...this.entries]);
    const gone = this.entries.filter((each) => !kept.includes(each));
    await this.#change(kept, (store) => {
      store.put(entry);
      for (const { at } of gone) store.delete(at);
    });
  }

  async #remove(entry) {
    const at = this.entries.indexOf(entry);
    const rest = this.entries.filter((each) => each !== entry);
    await this.#change(rest, (store) => store.delete(entry.at));
    const place = $("history").children[Math.min(at, this.entries.length - 1)];
    (place?.querySelector("button") ?? $("prompt")).focus();
  }

  async #forgetAll() {
    await this.#change([], (store) => store.clear());
    $("prompt").focus();
  }

  /** What is shown as forgotten is forgotten. */
  async #change(entries, work) {
    try {
      await this.#run("readwrite", work);
    } catch {
      // The disk is full, or the storage was taken away: the page goes on without.
      this.base = null;
    }
    this.entries = entries;
    this.#write();
  }

  #run(mode, work) {
    if (!this.base) return Promise.resolve([]);
    return new Promise((resolve, reject) => {
      const transaction = this.base.transaction("entries", mode);
      const request = work(transaction.objectStore("entries"));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }

  #write() {
    $("past").hidden = this.entries.length === 0;
    $("history").replaceChildren(...this.entries.map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const { prompt } = entry.fields;
    const label = t("history_entry", { prompt, at: time(entry.at) });
    const picture = show(entry.pictures[0].blob, "");
    const choose = el("button", {
      type: "button",
      title: label,
      "aria-label": label,
      onclick: () => this.choose(entry),
    });
    choose.append(picture);
    const remove = el("button", {
      type: "button",
      className: "plain square remove",
      onclick: () => this.#remove(entry),
    });
    remove.setAttribute("aria-label", t("remove", { name: label }));
    remove.append(icon("close"));
    return el("li", {}, choose, remove);
  }
}

/** The newest ones that have room; the first always. */
function withinBounds(entries) {
  let size = 0;
  return entries.slice(0, MOST).filter((entry, at) => {
    const blobs = [...entry.pictures.map(({ blob }) => blob), ...entry.images, entry.mask];
    size += blobs.reduce((sum, blob) => sum + (blob?.size ?? 0), 0);
    return at === 0 || size <= MOST_BYTES;
  });
}

function openBase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("limner", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("entries", { keyPath: "at" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
