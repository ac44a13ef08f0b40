// Image files: decoded from base64, recognized by their first bytes, measured, shown and downloaded.

import { bytes } from "./i18n.js";

const FORMATS = [
  { type: "image/png", extension: "png", matches: (head) => head.startsWith("\x89PNG") },
  { type: "image/jpeg", extension: "jpg", matches: (head) => head.startsWith("\xff\xd8\xff") },
  { type: "image/webp", extension: "webp", matches: (head) => head.startsWith("RIFF") && head.slice(8, 12) === "WEBP" },
  { type: "image/gif", extension: "gif", matches: (head) => head.startsWith("GIF8") },
  { type: "image/avif", extension: "avif", matches: (head) => head.slice(4, 12) === "ftypavif" },
];

/** Returns a blob whose type is recognized by its first bytes. */
export function decodeImage(base64) {
  const head = atob(base64.slice(0, 24));
  const type = FORMATS.find((format) => format.matches(head))?.type ?? "application/octet-stream";
  return new Blob([fromBase64(base64)], { type });
}

function fromBase64(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

export const fileExtension = (type) => FORMATS.find((format) => format.type === type)?.extension ?? "bin";

/** Returns `{width, height}` after EXIF rotation, or nulls if the browser cannot read the image. */
export async function measureImage(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    bitmap.close();
    return { width, height };
  } catch {
    return { width: null, height: null };
  }
}

/** Returns an `img` of the blob. Its object URL is revoked once the image has loaded. */
export function imageElement(blob, alt) {
  const image = new Image();
  image.alt = alt;
  image.decoding = "async";
  image.src = URL.createObjectURL(blob);
  const release = () => URL.revokeObjectURL(image.src);
  image.addEventListener("load", release, { once: true });
  image.addEventListener("error", release, { once: true });
  return image;
}

/** Describes an image file in one line: pixels (if known), format and bytes. */
export function describeFile({ blob, width, height }) {
  const format = blob.type.replace("image/", "").toUpperCase();
  return [width ? `${width}×${height}` : null, format, bytes(blob.size)].filter(Boolean).join(" · ");
}

export function downloadFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
