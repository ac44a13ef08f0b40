// One request as the form says it: its path, its fields in the API's names, its pictures, its body.

import { ending } from "./pictures.js";

export class Asked {
  /** `fields` in the API's names; `images` are blobs in order, `mask` a blob or null. */
  constructor(fields, images = [], mask = null) {
    this.fields = fields;
    this.images = images;
    this.mask = images.length ? mask : null;
  }

  get path() {
    return this.images.length ? "/v1/images/edits" : "/v1/images/generations";
  }

  get streams() {
    return this.fields.stream === true;
  }

  /** File parts of the form, as `[field, blob, name]`. */
  get files() {
    const images = this.images.map((blob, at) => ["image[]", blob, `picture-${at + 1}.${ending(blob.type)}`]);
    return this.mask ? [...images, ["mask", this.mask, "mask.png"]] : images;
  }

  /** `size` in bytes, without what a form adds around its parts. */
  body() {
    const json = JSON.stringify(this.fields);
    if (!this.images.length) {
      return { body: json, headers: { "content-type": "application/json" }, size: new Blob([json]).size };
    }
    const form = new FormData();
    for (const [name, value] of Object.entries(this.fields)) form.append(name, String(value));
    for (const [field, blob, name] of this.files) form.append(field, blob, name);
    const size = this.files.reduce((sum, [, blob]) => sum + blob.size, json.length);
    return { body: form, headers: {}, size };
  }
}

/** The fields that are said; what is at its default is left out. */
export function fieldsOf({ model, prompt, size, quality, count, format, compression, stream, partials }) {
  const fields = { model, prompt, size };
  if (quality) fields.quality = quality;
  if (format) fields.output_format = format;
  if (format === "jpeg" || format === "webp") fields.output_compression = compression;
  if (stream) return { ...fields, stream: true, partial_images: partials };
  if (count > 1) fields.n = count;
  return { ...fields, response_format: "b64_json" };
}
