// The key: in the page's memory, and in the browser's storage only where that is asked for.

import { $ } from "./dom.js";
import { t } from "./i18n.js";

const PLACE = "limner.key";

export class Key {
  /** `kind` as in server.json: client, upstream or none; `changed` is called after every change. */
  constructor(kind, changed) {
    this.kind = kind;
    const kept = localStorage.getItem(PLACE);
    $("key").value = kept ?? "";
    $("remember").checked = kept !== null;
    for (const id of ["key", "remember"]) {
      $(id).addEventListener("input", () => {
        this.#keep();
        changed();
      });
    }
    document.addEventListener("language", () => this.#write());
    this.#write();
  }

  get value() {
    return $("key").value.trim();
  }

  get isMissing() {
    return this.kind !== "none" && !this.value;
  }

  #keep() {
    if ($("remember").checked && this.value) localStorage.setItem(PLACE, this.value);
    else localStorage.removeItem(PLACE);
  }

  #write() {
    $("key-hint").textContent = t(`key_${this.kind}`);
  }
}
