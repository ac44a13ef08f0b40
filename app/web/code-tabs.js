// The tabs with the same request for other programs, and with the raw response.

import { $, el } from "./dom.js";
import { t } from "./i18n.js";
import { SNIPPETS } from "./snippets.js";

const NAMES = { curl: "curl", python: "Python", node: "Node.js" };
const TABS = [...Object.keys(SNIPPETS), "response"];
const MAX_BASE64 = 120;

export class CodeTabs {
  /** `current` returns `{request, needsKey}` for the form as it is. */
  constructor(current) {
    this.current = current;
    this.response = null;
    this.open = "curl";
    $("tabs").append(...TABS.map((name) => this.#tab(name)));
    $("tabs").addEventListener("keydown", (event) => this.#switch(event));
    $("copy").addEventListener("click", () => this.#copy());
    document.addEventListener("language", () => this.write());
  }

  /** `response` is `{status, headers, documents}`, or null before there is one. */
  show(response) {
    this.response = response;
    this.write();
  }

  write() {
    for (const tab of $("tabs").children) {
      const selected = tab.dataset.name === this.open;
      tab.textContent = NAMES[tab.dataset.name] ?? t("response");
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
    }
    const { request, needsKey } = this.current();
    const text = this.open === "response" ? rawResponse(this.response) : SNIPPETS[this.open](request, needsKey);
    $("code").firstElementChild.textContent = text;
  }

  #tab(name) {
    const choose = () => {
      this.open = name;
      this.write();
    };
    return el("button", {
      type: "button",
      role: "tab",
      "data-name": name,
      "aria-controls": "code",
      onclick: choose,
    });
  }

  /** Arrow keys switch tabs, as screen readers announce for a tab list. */
  #switch(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = (TABS.indexOf(this.open) + step + TABS.length) % TABS.length;
    $("tabs").children[at].click();
    $("tabs").children[at].focus();
  }

  async #copy() {
    const label = $("copy").querySelector("span");
    try {
      await navigator.clipboard.writeText($("code").textContent);
      label.textContent = t("copied");
    } catch {
      // Without TLS there is no clipboard API, so the text is selected for Ctrl+C.
      getSelection().selectAllChildren($("code"));
      label.textContent = t("selected");
    }
    setTimeout(() => (label.textContent = t("copy")), 2000);
  }
}

function rawResponse(response) {
  if (!response) return t("no_response");
  const headers = response.headers.map(([name, value]) => `${name}: ${value}`);
  const documents = response.documents.map((document) => JSON.stringify(document, shortenBase64, 2));
  return [`HTTP ${response.status}`, ...headers, "", documents.join("\n\n")].join("\n");
}

/** Shows the beginning and the length of base64 only. */
function shortenBase64(name, value) {
  if (typeof value !== "string" || value.length <= MAX_BASE64 || name !== "b64_json") return value;
  return `${value.slice(0, 24)}… (${t("characters", { count: value.length.toLocaleString("en") })})`;
}
