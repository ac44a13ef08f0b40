// Small charts by hour, drawn as SVG. The same figures are in a table for screen readers and for copying.

import { el, svg } from "./dom.js";

const WIDTH = 480;
const HEIGHT = 96;

/**
 * Returns a bar for each hour: `rows` have a label and, for each of `series`, a value. Series are stacked, the first at
 * the bottom; `series` are `{name, className, value, text}` with functions of a row.
 */
export function barChart(title, rows, series) {
  const totals = rows.map((row) => series.reduce((sum, each) => sum + each.value(row), 0));
  const highest = Math.max(...totals, 0);
  const step = WIDTH / rows.length;
  const bars = rows.flatMap((row, at) => column(row, at * step, step, highest, series));
  const summary = series.map((each) => `${each.name}: ${each.total}`).join(", ");
  const label = `${title}. ${summary}`;
  const drawing = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    ...bars,
    svg("path", { class: "axis", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }),
  );
  const legend = series.map((each) =>
    el("span", { className: each.className }, `${each.name} `, el("b", {}, each.total)),
  );
  const ends = el("p", { className: "ends" }, el("span", {}, rows[0].label), el("span", {}, rows.at(-1).label));
  return el("figure", { className: "chart" }, el("figcaption", {}, el("b", {}, title), ...legend), drawing, ends);
}

function column(row, left, step, highest, series) {
  let top = HEIGHT;
  return series
    .filter((each) => each.value(row) > 0)
    .map((each) => {
      // At least two units high: a single failure must be seen.
      const height = Math.max(2, (each.value(row) / highest) * (HEIGHT - 4));
      top -= height;
      const bar = { class: each.className, x: left + step * 0.15, y: top, width: step * 0.7, height };
      return svg("rect", bar, svg("title", {}, `${row.label}: ${each.text(row)}`));
    });
}
