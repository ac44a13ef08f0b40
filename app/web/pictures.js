// Pictures as bytes: decoded from base64, told apart by their first bytes, measured.

const KINDS = [
  { type: "image/png", ending: "png", fits: (head) => head.startsWith("\x89PNG") },
  { type: "image/jpeg", ending: "jpg", fits: (head) => head.startsWith("\xff\xd8\xff") },
  { type: "image/webp", ending: "webp", fits: (head) => head.startsWith("RIFF") && head.slice(8, 12) === "WEBP" },
  { type: "image/gif", ending: "gif", fits: (head) => head.startsWith("GIF8") },
  { type: "image/avif", ending: "avif", fits: (head) => head.slice(4, 12) === "ftypavif" },
];

/** A blob of the type that its first bytes tell. */
export function decode(base64) {
  const head = atob(base64.slice(0, 24));
  const type = KINDS.find((kind) => kind.fits(head))?.type ?? "application/octet-stream";
  return new Blob([fromBase64(base64)], { type });
}

function fromBase64(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export const ending = (type) => KINDS.find((kind) => kind.type === type)?.ending ?? "bin";

/** `{width, height}` as shown, turned as the camera says; nulls where the browser cannot read it. */
export async function measure(blob) {
  try {
    const bitmap = await createImageBitmap(blob);
    const { width, height } = bitmap;
    bitmap.close();
    return { width, height };
  } catch {
    return { width: null, height: null };
  }
}

/** An `img` of the blob, whose address is given back once it has loaded. */
export function show(blob, alt) {
  const image = new Image();
  image.alt = alt;
  image.decoding = "async";
  image.src = URL.createObjectURL(blob);
  const release = () => URL.revokeObjectURL(image.src);
  image.addEventListener("load", release, { once: true });
  image.addEventListener("error", release, { once: true });
  return image;
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
