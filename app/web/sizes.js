// The rules for sizes, which the server sends: which rule a size breaks, and which valid size is near.

/** The sizes of the picker. "" lets the model choose. */
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

/** Returns the name of the first broken rule, in the server's order, or null for a valid size. */
export function brokenRule(width, height, rules) {
  if (!Number.isInteger(width) || !Number.isInteger(height) || width < 1 || height < 1) return "size_number";
  if (rules.legacy.includes(`${width}x${height}`)) return null;
  const [short, long] = [Math.min(width, height), Math.max(width, height)];
  if (short % rules.multiple || long % rules.multiple) return "size_multiple";
  if (long > rules.max_edge) return "size_edge";
  if (short < rules.min_edge) return "size_min_edge";
  if (long > rules.max_aspect_ratio * short) return "size_ratio";
  if (short * long > rules.max_pixels) return "size_max";
  if (short * long < rules.min_pixels) return "size_min";
  return null;
}

/** Returns a valid size near this one, with a similar aspect ratio; null if a side is missing. */
export function nearest(width, height, rules) {
  if (!(width > 0 && height > 0)) return null;
  const ratio = Math.min(rules.max_aspect_ratio, Math.max(1 / rules.max_aspect_ratio, width / height));
  const pixels = Math.min(rules.max_pixels, Math.max(rules.min_pixels, width * height));
  const ideal = Math.min(Math.sqrt(pixels * ratio), rules.max_edge, rules.max_edge * ratio);
  const around = (value) => {
    const whole = Math.round(value / rules.multiple);
    return [0, 1, -1, 2, -2].map((offset) => (whole + offset) * rules.multiple);
  };
  const distance = ([w, h]) => Math.abs(Math.log(w / ideal)) + Math.abs(Math.log((h * ratio) / ideal));
  return (
    around(ideal)
      .flatMap((w) => around(ideal / ratio).map((h) => [w, h]))
      .filter(([w, h]) => w > 0 && h > 0 && brokenRule(w, h, rules) === null)
      .sort((one, other) => distance(one) - distance(other))[0] ?? null
  );
}

/** Returns 3:2 for 1536×1024; with terms above 21, the ratio as a decimal number to 1. */
export function ratioName(width, height) {
  const divisor = (a, b) => (b ? divisor(b, a % b) : a);
  const by = divisor(width, height);
  const [w, h] = [width / by, height / by];
  if (Math.max(w, h) <= 21) return `${w}:${h}`;
  return width >= height ? `${(width / height).toFixed(2)}:1` : `1:${(height / width).toFixed(2)}`;
}
