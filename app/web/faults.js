// What went wrong, in plain words: what it means, and what to do.

const by = {
  code:
    (...codes) =>
    ({ error }) =>
      codes.includes(error?.code),
  status:
    (...statuses) =>
    ({ status }) =>
      statuses.includes(status),
  param:
    (...names) =>
    ({ error }) =>
      names.includes(error?.param),
};

/** The first row that fits names the texts `fault_…` and `fault_…_advice`; `field` is where the reader can help. */
const FAULTS = [
  { name: "offline", fits: ({ offline }) => offline },
  { name: "cut", fits: ({ cut }) => cut },
  { name: "key", fits: by.status(401, 403), field: "key" },
  { name: "refused", fits: by.code("moderation_blocked"), field: "prompt" },
  { name: "words", fits: by.code("no_image_in_reply"), field: "prompt" },
  { name: "size", fits: by.param("size"), field: "width" },
  { name: "mask", fits: by.code("invalid_mask_image_format"), field: "paint-mask" },
  { name: "input", fits: by.code("invalid_image_file", "invalid_image_url", "invalid_base64"), field: "add-input" },
  { name: "large", fits: by.status(413), field: "add-input" },
  { name: "request", fits: by.status(400, 404, 422) },
  { name: "quota", fits: by.code("insufficient_quota", "upstream_quota") },
  { name: "busy", fits: by.status(429, 503) },
  { name: "unreachable", fits: by.code("upstream_unreachable", "upstream_overloaded") },
  { name: "upstream_key", fits: by.code("upstream_auth", "upstream_model") },
  { name: "slow", fits: by.code("upstream_timeout") },
  { name: "lost", fits: by.code("image_download_failed", "image_unreadable", "image_not_kept") },
  { name: "upstream", fits: by.code("upstream_broken", "upstream_error") },
  { name: "server", fits: () => true },
];

/** `failed` as client.js tells it: `{offline, cut, status, error}`. */
export function explain(failed) {
  const { name, field } = FAULTS.find((row) => row.fits(failed));
  return { title: `fault_${name}`, advice: `fault_${name}_advice`, field };
}
