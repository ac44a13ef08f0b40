// The operators' page at /status: the report of /v1/status, refreshed every two seconds.

import { barChart } from "./charts.js";
import { serverUrl } from "./client.js";
import { $, el, showFieldError } from "./dom.js";
import { describeError } from "./errors.js";
import { money, number, seconds, setUpLanguage, t, time } from "./i18n.js";

const REFRESH_INTERVAL = 2000;

/** How many of the last failures are shown. */
const MAX_FAILURES = 8;

const KEY_COLUMNS = ["name", "requests", "images", "failures", "median", "p95", "cost"];

const LIMIT_COLUMNS = ["name", "limit", "used", "of_limit", "share"];

let report = null;
let timer = null;

$("status-form").addEventListener("submit", (event) => {
  event.preventDefault();
  refresh();
});
document.addEventListener("language", write);
document.addEventListener("visibilitychange", () => !document.hidden && report && refresh());
setUpLanguage($("language"));
refresh({ isFirst: true });

/** On the first call a missing key is not shown as an error yet. */
async function refresh({ isFirst = false } = {}) {
  clearTimeout(timer);
  const { document: fetched, failed } = await fetchReport();
  report = fetched ?? null;
  $("status-form").hidden = report !== null && !$("key").value;
  const error = failed && !(isFirst && failed.status === 401) ? errorText(failed) : null;
  showFieldError($("key"), $("key-error"), error);
  document.documentElement.dataset.ready = "";
  write();
  if (report && !document.hidden) timer = setTimeout(refresh, REFRESH_INTERVAL);
}

function errorText(failed) {
  const { title, advice } = describeError(failed);
  return `${t(title)}. ${failed.error?.message ?? t(advice)}`;
}

async function fetchReport() {
  const key = $("key").value.trim();
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  try {
    const response = await fetch(serverUrl("v1/status"), { headers });
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
  const footer = [`Limner ${report.version}`, `PID ${report.pid}`, time(report.now * 1000), t("status_every")];
  $("report").replaceChildren(
    ...(report.closing ? [el("p", { className: "error", role: "alert" }, t("status_closing"))] : []),
    el(
      "dl",
      { className: "gauges" },
      gauge("status_in_progress", turns.used, turns.limit),
      gauge("status_waiting", turns.waiting, turns.queue),
    ),
    el("div", { className: "charts" }, ...hourCharts(report.hours)),
    section("status_keys", KEY_COLUMNS, report.keys.map(keyRow)),
    ...(report.key_limits.length ? [section("status_key_limits", LIMIT_COLUMNS, report.key_limits.map(limitRow))] : []),
    section("status_last_failures", ["when", "id", "reason", "remedy"], lastFailures(report.outcomes)),
    section("status_in_progress", ["id", "request", "state", "readers", "took"], report.under_way.map(jobRow)),
    section("status_upstreams", ["name", "host", "model", "circuit", "in_progress"], report.upstreams.map(upstreamRow)),
    section("status_outcomes", ["when", "id", "request", "result", "took"], report.outcomes.map(requestRow)),
    section("status_limits", ["variable", "value"], Object.entries(report.settings).map(settingRow)),
    el("p", { className: "hint" }, footer.join(" · ")),
  );
}

function gauge(name, value, limit) {
  const rest = el("small", {}, ` ${t("status_of", { limit: number(limit) })}`);
  return el("div", {}, el("dt", {}, t(name)), el("dd", {}, number(value), rest));
}

function section(name, columns, rows) {
  const cells = (row) => row.map((cell) => (cell instanceof Node ? cell : el("td", {}, String(cell))));
  const head = el("tr", {}, ...columns.map((each) => el("th", { scope: "col" }, t(`status_${each}`))));
  const body = el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells(row))));
  const table = el("table", {}, el("thead", {}, head), body);
  const content = rows.length ? table : el("p", { className: "quiet" }, t("status_none"));
  const box = el("div", { className: "scroll" }, content);
  return el("section", { "aria-label": t(name) }, el("h2", { className: "label" }, t(name)), box);
}

/** Images and failures, waiting times, and a chart of the cost for each currency. */
function hourCharts(hours) {
  const rows = hours.map((hour) => ({ ...hour, label: time(Date.parse(hour.hour)) }));
  const sum = (value) => rows.reduce((total, row) => total + value(row), 0);
  const images = series("images", "status_images", (row) => row.images, number);
  const failures = series("failures", "status_failures", (row) => row.failures, number);
  const took = (row) => row.p95_seconds ?? 0;
  const slowest = { ...series("took", "status_p95", took, (value) => seconds(value * 1000)), total: "" };
  slowest.total = seconds(Math.max(...rows.map(took)) * 1000);
  for (const each of [images, failures]) each.total = number(sum(each.value));
  const currencies = [...new Set(rows.flatMap((row) => Object.keys(row.costs)))].sort();
  const costs = currencies.map((currency) => {
    const value = (row) => Number(row.costs[currency] ?? 0);
    const cost = series("cost", "status_cost", value, (amount) => money(amount, currency));
    return barChart(t("status_cost"), rows, [{ ...cost, total: money(sum(value), currency) }]);
  });
  const made = barChart(t("status_by_hour"), rows, [images, failures]);
  return [made, barChart(t("status_waits"), rows, [slowest]), ...costs];
}

const series = (className, name, value, format) => ({
  className,
  name: t(name),
  value,
  text: (row) => `${t(name)} ${format(value(row))}`,
});

function keyRow({ name, requests, images, failures, median_seconds: median, p95_seconds: p95, costs }) {
  const cost = Object.entries(costs).map(([currency, amount]) => money(Number(amount), currency));
  const shown = (value) => (value === null ? "–" : seconds(value * 1000));
  const failed = el("td", { className: failures ? "bad" : "" }, number(failures));
  return [name, number(requests), number(images), failed, shown(median), shown(p95), cost.join(", ") || "–"];
}

/** `used` is null where the shared state does not tell it. */
function limitRow({ key, kind, period, limit, used, currency }) {
  const shown = (value) => (currency ? money(Number(value), currency) : number(value));
  const name = t(`status_limit_${kind}`, { period: period && t(`status_${period}`) });
  const share = el("td", {});
  if (used !== null) {
    const label = `${key}, ${name}`;
    share.append(el("meter", { min: 0, max: Number(limit), value: Number(used), "aria-label": label }));
  }
  const isFull = used !== null && Number(used) >= Number(limit);
  const amount = el("td", { className: isFull ? "bad" : "" }, used === null ? "–" : shown(used));
  return [key, name, amount, shown(limit), share];
}

function lastFailures(requests) {
  const failed = requests.filter(({ status }) => status >= 400 && status !== 499);
  return failed.slice(0, MAX_FAILURES).map(failureRow);
}

function failureRow({ at, id, status, error }) {
  const { title, advice } = describeError({ status, error: { code: error } });
  const reason = el("td", { className: "bad" }, t(title));
  return [time(at * 1000, "medium"), codeCell(id), reason, el("td", { className: "wrap" }, t(advice))];
}

const codeCell = (text) => el("td", {}, el("code", {}, text));

function requestText({ operation, n, size, stream, path }) {
  if (!operation) return path;
  return [t(operation), n > 1 ? `${n} ×` : null, size, stream ? t("stream") : null].filter(Boolean).join(" · ");
}

function jobRow(job) {
  const state = t(job.asked ? "status_submitted" : "status_queued");
  return [codeCell(job.id), requestText(job), state, job.readers, seconds(job.seconds * 1000)];
}

function upstreamRow({ name, host, model, circuit, under_way: inFlight, limit }) {
  const state = el("td", { className: circuit === "closed" ? "good" : "bad" }, t(`circuit_${circuit}`));
  return [name, host, model ?? "–", state, limit === null ? inFlight : `${inFlight} / ${limit}`];
}

function requestRow(request) {
  const failed = request.status >= 400 || Boolean(request.error);
  const result = request.error ? `${request.status} ${request.error}` : String(request.status);
  return [
    time(request.at * 1000, "medium"),
    codeCell(request.id),
    requestText(request),
    el("td", { className: failed ? "bad" : "good" }, result),
    seconds(request.ms),
  ];
}

/** Settings that are sizes are in bytes, those that are times in seconds. */
function settingRow([name, value]) {
  if (typeof value !== "number") return [codeCell(name), String(value)];
  if (name.endsWith("_BYTES")) return [codeCell(name), `${number(value / 2 ** 20)} MiB`];
  return [codeCell(name), /_(TTL|TIMEOUT|AFTER|GRACE)$/.test(name) ? `${number(value)} s` : number(value)];
}
