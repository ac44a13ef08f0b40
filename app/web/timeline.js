// What happens, line by line, with the time since the question was asked.

import { $, el } from "./dom.js";
import { bytes, seconds, t } from "./i18n.js";

/** Signs of life, progress and bytes come again and again: the newest takes the place of the one before. */
const REPEATED = new Set(["alive", "progress", "bytes"]);

const TEXTS = {
  asked: (step) => t("step_asked", { path: step.path, size: bytes(step.size) }),
  answered: (step) => t("step_answered", { status: step.status }),
  progress: (step) => t("step_progress", { text: step.text }),
  alive: (step) => t("step_alive", { times: step.times }),
  bytes: (step) =>
    t(step.announced ? "step_bytes_of" : "step_bytes", { size: bytes(step.size), all: bytes(step.announced ?? 0) }),
  partial: (step) => t("step_partial", { number: step.number }),
  completed: (step) => t("step_completed", { count: step.pictures.length, size: bytes(step.size) }),
  shown: () => t("step_shown"),
  failed: () => t("step_failed"),
  stopped: () => t("step_stopped"),
};

export class Timeline {
  constructor() {
    this.steps = [];
    document.addEventListener("language", () => this.#write());
  }

  start() {
    this.steps = [];
    this.began = performance.now();
    $("course").hidden = false;
    this.ticking = setInterval(() => this.#tick(), 100);
    this.#tick();
  }

  stop() {
    clearInterval(this.ticking);
    this.took = performance.now() - this.began;
    this.#tick();
  }

  add(step) {
    const at = performance.now() - this.began;
    const again = this.#since().find(({ kind }) => kind === step.kind);
    const number = this.steps.filter(({ kind }) => kind === step.kind).length + 1;
    this.steps = this.steps.filter((each) => each !== again);
    this.steps.push({ ...step, at, number, times: (again?.times ?? 0) + 1 });
    this.#write();
  }

  /** What came since the last step that is told once. */
  #since() {
    return this.steps.slice(this.steps.findLastIndex(({ kind }) => !REPEATED.has(kind)) + 1);
  }

  hide() {
    $("course").hidden = true;
  }

  #tick() {
    $("clock").textContent = seconds(performance.now() - this.began);
  }

  #write() {
    $("timeline").replaceChildren(...this.steps.map(line));
  }
}

function line(step) {
  const text = TEXTS[step.kind](step);
  return el("li", { className: step.kind }, el("time", {}, seconds(step.at)), el("span", {}, text));
}
