// The operators' page at /status: what the server tells at /v1/status, anew every two seconds.

import { address } from "./client.js";
import { $, complain, el } from "./dom.js";
import { explain } from "./faults.js";
import { number, seconds, speak, t, time } from "./i18n.js";

const EVERY = 2000;

let report = null;
let timer = null;

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
document.addEventListener("language", write);
document.addEventListener("visibilitychange", () => !document.hidden && report && refresh());
speak($("language"));
refresh({ quietly: true });

/** `quietly`: a key that is missing is no mistake yet. */
async function refresh({ quietly = false } = {}) {
  clearTimeout(timer);
  const told = await fetchReport();
  report = told.document ?? null;
  $("ask").hidden = report !== null && !$("key").value;
  const { title, advice } = told.failed ? explain(told.failed) : {};
  const said = told.failed?.error?.message ?? (advice && t(advice));
  complain(
    $("key"),
    $("key-fault"),
    told.failed && !(quietly && told.failed.status === 401) ? `${t(title)}. ${said}` : null,
  );
  document.documentElement.dataset.ready = "";
  write();
  if (report && !document.hidden) timer = setTimeout(refresh, EVERY);
}

async function fetchReport() {
  const key = $("key").value.trim();
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  try {
    const response = await fetch(address("v1/status"), { headers });
    const document = await response.json();
    return response.ok ? { document } : { failed: { status: response.status, error: document.error } };
  } catch {
    return { failed: { offline: true } };
  }
}

function write() {
  $("report").hidden = report === null;
  if (report === null) return;
  const { turns } = report;
  $("report").replaceChildren(
    ...(report.closing ? [el("p", { className: "fault", role: "alert" }, t("status_closing"))] : []),
    el(
      "dl",
      { className: "gauges" },
      gauge("status_under_way", turns.used, turns.limit),
      gauge("status_waiting", turns.waiting, turns.queue),
    ),
    section("status_under_way", ["id", "what", "state", "readers", "took"], report.under_way.map(errand)),
    section("status_upstreams", ["name", "host", "model", "circuit", "under_way"], report.upstreams.map(upstream)),
    section("status_outcomes", ["when", "id", "what", "end", "took"], report.outcomes.map(outcome)),
    section("status_limits", ["variable", "value"], Object.entries(report.settings).map(setting)),
    el(
      "p",
      { className: "hint" },
      `Limner ${report.version} · PID ${report.pid} · ${time(report.now * 1000)} · ${t("status_every")}`,
    ),
  );
}

function gauge(name, value, limit) {
  const rest = el("small", {}, ` ${t("status_of", { limit: number(limit) })}`);
  return el("div", {}, el("dt", {}, t(name)), el("dd", {}, number(value), rest));
}

function section(name, heads, rows) {
  const cells = (row) => row.map((cell) => (cell instanceof Node ? cell : el("td", {}, String(cell))));
  const head = el("tr", {}, ...heads.map((each) => el("th", { scope: "col" }, t(`status_${each}`))));
  const body = el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row))));
  const table = el("table", {}, el("thead", {}, head), body);
  const shown = rows.length ? table : el("p", { className: "quiet" }, t("status_none"));
  const box = el("div", { className: "scroll" }, shown);
  return el("section", { "aria-label": t(name) }, el("h2", { className: "label" }, t(name)), box);
}

const cellOf = (text) => el("td", {}, el("code", {}, text));

function what({ operation, n, size, stream, path }) {
  if (!operation) return path;
  return [t(operation), n > 1 ? `${n} ×` : null, size, stream ? t("stream") : null].filter(Boolean).join(" · ");
}

function errand(each) {
  const state = t(each.asked ? "status_asked" : "status_queued");
  return [cellOf(each.id), what(each), state, each.readers, seconds(each.seconds * 1000)];
}

function upstream({ name, host, model, circuit, under_way: asked, limit }) {
  const state = el("td", { className: circuit === "closed" ? "good" : "bad" }, t(`circuit_${circuit}`));
  return [name, host, model ?? "–", state, limit === null ? asked : `${asked} / ${limit}`];
}

function outcome(each) {
  const bad = each.status >= 400 || Boolean(each.error);
  const end = el(
    "td",
    { className: bad ? "bad" : "good" },
    each.error ? `${each.status} ${each.error}` : String(each.status),
  );
  return [time(each.at * 1000, "medium"), cellOf(each.id), what(each), end, seconds(each.ms)];
}

/** Sizes are told in bytes, times in seconds. */
function setting([name, value]) {
  if (typeof value !== "number") return [cellOf(name), String(value)];
  if (name.endsWith("_BYTES")) return [cellOf(name), `${number(value / 2 ** 20)} MiB`];
  return [cellOf(name), /_(TTL|TIMEOUT|AFTER|GRACE)$/.test(name) ? `${number(value)} s` : number(value)];
}
