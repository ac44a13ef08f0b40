// The rules of sizes, as the server tells them: what breaks one, and which size is near.

/** The sizes on offer; "" lets the model choose. */
export const PRESETS = [
  ["", "auto"],
  ["1024x1024", "1:1"],
  ["1536x1024", "3:2"],
  ["1024x1536", "2:3"],
  ["1792x1008", "16:9"],
  ["1008x1792", "9:16"],
  ["2048x2048", "2K"],
  ["3840x2160", "4K"],
  ["2160x3840", "4K"],
  ["custom", "custom"],
];

/** The name of the first broken rule, in the server's order; null where the size may be asked for. */
export function brokenRule(width, height, rules) {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) return "size_number";
  if (rules.legacy.includes(`${width}x${height}`)) return null;
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (short % rules.step || long % rules.step) return "size_step";
  if (long > rules.longest_edge) return "size_edge";
  if (long > rules.ratio * short) return "size_ratio";
  if (short * long > rules.most_pixels) return "size_most";
  if (short * long < rules.least_pixels) return "size_least";
  return null;
}

/** A size that may be asked for, near this one in shape first; null where there is nothing to go by. */
export function nearest(width, height, rules) {
  if (!(width > 0 && height > 0)) return null;
  const ratio = Math.min(rules.ratio, Math.max(1 / rules.ratio, width / height));
  const pixels = Math.min(rules.most_pixels, Math.max(rules.least_pixels, width * height));
  const ideal = Math.min(Math.sqrt(pixels * ratio), rules.longest_edge, rules.longest_edge * ratio);
  const around = (value) => {
    const whole = Math.round(value / rules.step);
    return [0, 1, -1, 2, -2].map((offset) => (whole + offset) * rules.step);
  };
  const distance = ([w, h]) => Math.abs(Math.log(w / ideal)) + Math.abs(Math.log((h * ratio) / ideal));
  return (
    around(ideal)
      .flatMap((w) => around(ideal / ratio).map((h) => [w, h]))
      .filter(([w, h]) => w > 0 && h > 0 && brokenRule(w, h, rules) === null)
      .sort((one, other) => distance(one) - distance(other))[0] ?? null
  );
}

/** 3:2 for 1536 and 1024; where the terms would be large, how often one goes into the other. */
export function ratioName(width, height) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  const by = divisor(width, height);
  const [w, h] = [width / by, height / by];
  if (Math.max(w, h) <= 21) return `${w}:${h}`;
  return width >= height ? `${(width / height).toFixed(2)}:1` : `1:${(height / width).toFixed(2)}`;
}
