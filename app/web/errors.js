// Errors in plain words: what happened, what to do, and which field of the form to correct.

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

/** The first rule that matches names the texts `error_…` and `error_…_advice`. `field`: what the user can correct. */
const RULES = [
  { name: "offline", matches: ({ offline }) => offline },
  { name: "cut", matches: ({ cut }) => cut },
  { name: "key", matches: by.status(401, 403), field: "key" },
  { name: "refused", matches: by.code("moderation_blocked"), field: "prompt" },
  { name: "text", matches: by.code("no_image_in_reply"), field: "prompt" },
  { name: "size", matches: by.param("size"), field: "width" },
  { name: "mask", matches: by.code("invalid_mask_image_format"), field: "draw-mask" },
  { name: "input", matches: by.code("invalid_image_file", "invalid_image_url", "invalid_base64"), field: "add-input" },
  { name: "large", matches: by.status(413), field: "add-input" },
  { name: "request", matches: by.status(400, 404, 422) },
  { name: "quota", matches: by.code("insufficient_quota", "upstream_quota") },
  { name: "busy", matches: by.status(429, 503) },
  { name: "unreachable", matches: by.code("upstream_unreachable", "upstream_overloaded") },
  { name: "upstream_key", matches: by.code("upstream_auth", "upstream_model") },
  { name: "slow", matches: by.code("upstream_timeout") },
  { name: "lost", matches: by.code("image_download_failed", "image_unreadable", "image_not_kept") },
  { name: "upstream", matches: by.code("upstream_broken", "upstream_error") },
  { name: "server", matches: () => true },
];

/** `failed` is a failed step of client.js: `{offline, cut, status, error}`. */
export function describeError(failed) {
  const { name, field } = RULES.find((rule) => rule.matches(failed));
  return { title: `error_${name}`, advice: `error_${name}_advice`, field };
}
