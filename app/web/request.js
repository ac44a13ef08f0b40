// One image request, made from the form: its path, its fields with their names in the API, its images, its body.

import { fileExtension } from "./image-files.js";

export class ImageRequest {
  /** `fields` have the API's names; `images` are blobs in order, `mask` is a blob or null. */
  constructor(fields, images = [], mask = null) {
    this.fields = fields;
    this.images = images;
    this.mask = images.length ? mask : null;
  }

  get path() {
    return this.images.length ? "/v1/images/edits" : "/v1/images/generations";
  }

  get isStream() {
    return this.fields.stream === true;
  }

  /** File parts of the multipart form, as `[field, blob, name]`. */
  get files() {
    const images = this.images.map((blob, at) => ["image[]", blob, `image-${at + 1}.${fileExtension(blob.type)}`]);
    return this.mask ? [...images, ["mask", this.mask, "mask.png"]] : images;
  }

  /** `size` is in bytes and does not count the part headers of a multipart form. */
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

/** Returns the fields to send; those at their default are left out. */
export function requestFields({ model, prompt, size, quality, count, format, compression, stream, partials }) {
  const fields = { model, prompt, size };
  if (quality) fields.quality = quality;
  if (format) fields.output_format = format;
  if (format === "jpeg" || format === "webp") fields.output_compression = compression;
  if (stream) return { ...fields, stream: true, partial_images: partials };
  if (count > 1) fields.n = count;
  return { ...fields, response_format: "b64_json" };
}
