// The field for the API key. The key stays in memory, unless the user lets the browser store it.

import { $ } from "./dom.js";
import { t } from "./i18n.js";

const STORAGE_KEY = "limner.key";

export class ApiKeyField {
  /** `kind` is that of server.json: client, upstream or none. `onChange` is called after every change. */
  constructor(kind, onChange) {
    this.kind = kind;
    const stored = localStorage.getItem(STORAGE_KEY);
    $("key").value = stored ?? "";
    $("remember").checked = stored !== null;
    for (const id of ["key", "remember"]) {
      $(id).addEventListener("input", () => {
        this.#store();
        onChange();
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

  #store() {
    if ($("remember").checked && this.value) localStorage.setItem(STORAGE_KEY, this.value);
    else localStorage.removeItem(STORAGE_KEY);
  }

  #write() {
    $("key-hint").textContent = t(`key_${this.kind}`);
  }
}
