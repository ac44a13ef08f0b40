// The tabs with the request for other programs, and with the raw answer.

import { $, el } from "./dom.js";
import { t } from "./i18n.js";
import { SNIPPETS } from "./snippets.js";

const NAMES = { curl: "curl", python: "Python", node: "Node.js" };
const TABS = [...Object.keys(SNIPPETS), "answer"];
const LONG = 120;

export class CodeTabs {
  /** `current` gives `{asked, keyed}` as the form stands. */
  constructor(current) {
    this.current = current;
    this.answer = null;
    this.open = "curl";
    $("tabs").append(...TABS.map((name) => this.#tab(name)));
    $("tabs").addEventListener("keydown", (event) => this.#move(event));
    $("copy").addEventListener("click", () => this.#copy());
    document.addEventListener("language", () => this.write());
  }

  /** `answer`: `{status, headers, documents}` of what came back, or null. */
  show(answer) {
    this.answer = answer;
    this.write();
  }

  write() {
    for (const tab of $("tabs").children) {
      const selected = tab.dataset.name === this.open;
      tab.textContent = NAMES[tab.dataset.name] ?? t("answer");
      tab.setAttribute("aria-selected", String(selected));
      tab.tabIndex = selected ? 0 : -1;
    }
    const { asked, keyed } = this.current();
    const text = this.open === "answer" ? raw(this.answer) : SNIPPETS[this.open](asked, keyed);
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

  /** Arrows change between tabs, as screen readers say they do. */
  #move(event) {
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
      // Without TLS there is no clipboard: the text is marked, ready for Ctrl+C.
      getSelection().selectAllChildren($("code"));
      label.textContent = t("marked");
    }
    setTimeout(() => (label.textContent = t("copy")), 2000);
  }
}

function raw(answer) {
  if (!answer) return t("no_answer");
  const headers = answer.headers.map(([name, value]) => `${name}: ${value}`);
  const documents = answer.documents.map((document) => JSON.stringify(document, shorten, 2));
  return [`HTTP ${answer.status}`, ...headers, "", documents.join("\n\n")].join("\n");
}

/** Base64 is told by its beginning and its length. */
function shorten(name, value) {
  if (typeof value !== "string" || value.length <= LONG || name !== "b64_json") return value;
  return `${value.slice(0, 24)}… (${t("letters", { count: value.length.toLocaleString("en") })})`;
}
