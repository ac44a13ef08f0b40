// The steps of a request, line by line, with the time since the request was sent.

import { $, el } from "./dom.js";
import { bytes, seconds, t } from "./i18n.js";

/** Steps that repeat: the newest one replaces the one before. */
const REPEATED = new Set(["keepalive", "progress", "bytes"]);

const TEXTS = {
  sent: (step) => t("step_sent", { path: step.path, size: bytes(step.size) }),
  responded: (step) => t("step_responded", { status: step.status }),
  progress: (step) => t("step_progress", { text: step.text }),
  keepalive: (step) => t("step_keepalive", { times: step.times }),
  bytes: (step) =>
    t(step.announced ? "step_bytes_of" : "step_bytes", { size: bytes(step.size), all: bytes(step.announced ?? 0) }),
  partial: (step) => t("step_partial", { number: step.number }),
  completed: (step) => t("step_completed", { count: step.images.length, size: bytes(step.size) }),
  shown: () => t("step_shown"),
  failed: () => t("step_failed"),
  stopped: () => t("step_stopped"),
};

export class Timeline {
  /** `onTick` is called with the milliseconds since the request was sent, while it runs. */
  constructor(onTick) {
    this.onTick = onTick;
    this.steps = [];
    document.addEventListener("language", () => this.#write());
  }

  start() {
    this.steps = [];
    this.startedAt = performance.now();
    $("progress").hidden = false;
    this.ticking = setInterval(() => this.#tick(), 100);
    this.#tick();
  }

  stop() {
    clearInterval(this.ticking);
    this.#tick();
  }

  add(step) {
    const at = performance.now() - this.startedAt;
    const previous = this.#repeatable().find(({ kind }) => kind === step.kind);
    const number = this.steps.filter(({ kind }) => kind === step.kind).length + 1;
    this.steps = this.steps.filter((each) => each !== previous);
    this.steps.push({ ...step, at, number, times: (previous?.times ?? 0) + 1 });
    this.#write();
  }

  /** Returns the repeated steps after the last step of another kind. */
  #repeatable() {
    return this.steps.slice(this.steps.findLastIndex(({ kind }) => !REPEATED.has(kind)) + 1);
  }

  hide() {
    $("progress").hidden = true;
  }

  #tick() {
    const passed = performance.now() - this.startedAt;
    $("clock").textContent = seconds(passed);
    this.onTick(passed);
  }

  #write() {
    $("timeline").replaceChildren(...this.steps.map(line));
  }
}

function line(step) {
  const text = TEXTS[step.kind](step);
  return el("li", { className: step.kind }, el("time", {}, seconds(step.at)), el("span", {}, text));
}
