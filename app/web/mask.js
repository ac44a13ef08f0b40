// The mask editor: the painted area becomes transparent in a PNG that is as large as the image.

import { $, checkedValue, el } from "./dom.js";

const COLOR = "#e5482d";

export class MaskEditor {
  constructor() {
    this.dialog = $("mask");
    this.strokes = [];
    this.stroke = null;
    this.#listen();
  }

  /** Returns the mask as a blob, null if nothing is painted, or undefined if the user cancels. */
  async edit(image, mask) {
    await this.#open(image, mask);
    return new Promise((resolve) => (this.resolve = resolve));
  }

  async #open(image, mask) {
    const bitmap = await createImageBitmap(image);
    const { width, height } = bitmap;
    this.canvas = el("canvas", { width, height, className: "layer" });
    this.cursor = el("span", { className: "cursor", hidden: true });
    const shown = el("canvas", { width, height });
    shown.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.base = mask && (await holesOf(mask, width, height));
    this.strokes = [];
    this.at = { x: width / 2, y: height / 2 };
    $("mask-canvas").replaceChildren(shown, this.canvas, this.cursor);
    $("mask-canvas").style.aspectRatio = `${width} / ${height}`;
    $("mask-canvas").style.setProperty("--ratio", String(width / height));
    this.#draw();
    this.dialog.showModal();
    $("mask-canvas").focus();
  }

  #listen() {
    const area = $("mask-canvas");
    area.addEventListener("pointerdown", (event) => this.#onPointerDown(event));
    area.addEventListener("pointermove", (event) => this.#onPointerMove(event));
    area.addEventListener("pointerup", () => (this.stroke = null));
    area.addEventListener("pointercancel", () => (this.stroke = null));
    area.addEventListener("pointerleave", () => (this.cursor.hidden = document.activeElement !== area));
    area.addEventListener("keydown", (event) => this.#onKeyDown(event));
    area.addEventListener("focus", () => this.#moveCursor());
    $("brush").addEventListener("input", () => this.#moveCursor());
    $("undo").addEventListener("click", () => this.#setStrokes(this.strokes.slice(0, -1)));
    $("clear").addEventListener("click", () => this.#clear());
    $("mask-cancel").addEventListener("click", () => this.dialog.close());
    $("mask-done").addEventListener("click", () => this.#finish());
    // Escape and Cancel both close the dialog. After `#finish` the promise is already resolved.
    this.dialog.addEventListener("close", () => this.resolve?.(undefined));
  }

  get #radius() {
    return (Math.max(this.canvas.width, this.canvas.height) * $("brush").valueAsNumber) / 200;
  }

  #position(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  #onPointerDown(event) {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.at = this.#position(event);
    this.#start();
  }

  #start() {
    this.stroke = { erase: checkedValue("tool") === "erase", radius: this.#radius, points: [this.at] };
    this.strokes.push(this.stroke);
    this.#drawStroke(this.stroke);
    this.#moveCursor();
  }

  #onPointerMove(event) {
    this.at = this.#position(event);
    this.#moveCursor();
    if (!this.stroke) return;
    const { points } = this.stroke;
    const drawn = points.length - 1;
    for (const each of event.getCoalescedEvents?.() ?? []) points.push(this.#position(each));
    points.push(this.at);
    this.#drawStroke({ ...this.stroke, points: points.slice(drawn) });
  }

  /** Arrow keys move by half a brush, Space draws a dot, Shift with arrow keys draws. */
  #onKeyDown(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (step) {
      const { width, height } = this.canvas;
      const within = (value, max) => Math.min(max, Math.max(0, value));
      const [x, y] = [this.at.x + (step[0] * this.#radius) / 2, this.at.y + (step[1] * this.#radius) / 2];
      this.at = { x: within(x, width), y: within(y, height) };
      this.#moveCursor();
    }
    if (!step || event.shiftKey) this.#start();
    this.stroke = null;
  }

  #moveCursor() {
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    this.cursor.hidden = false;
    this.cursor.style.left = percent(this.at.x, this.canvas.width);
    this.cursor.style.top = percent(this.at.y, this.canvas.height);
    this.cursor.style.width = percent(2 * this.#radius, this.canvas.width);
  }

  #setStrokes(strokes) {
    this.strokes = strokes;
    this.#draw();
  }

  #clear() {
    this.base = null;
    this.#setStrokes([]);
  }

  #draw() {
    const pen = this.canvas.getContext("2d");
    pen.globalCompositeOperation = "source-over";
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.base) pen.drawImage(this.base, 0, 0);
    for (const stroke of this.strokes) this.#drawStroke(stroke);
  }

  #drawStroke({ erase, radius, points }) {
    const pen = this.canvas.getContext("2d");
    pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
    pen.fillStyle = pen.strokeStyle = COLOR;
    pen.lineWidth = 2 * radius;
    pen.lineCap = pen.lineJoin = "round";
    // Canvas does not draw a line of length zero, so the first point is drawn as a circle.
    pen.beginPath();
    pen.arc(points[0].x, points[0].y, radius, 0, 2 * Math.PI);
    pen.fill();
    pen.beginPath();
    pen.moveTo(points[0].x, points[0].y);
    for (const { x, y } of points) pen.lineTo(x, y);
    pen.stroke();
  }

  async #finish() {
    this.resolve(isEmpty(this.canvas) ? null : await asMask(this.canvas));
    this.dialog.close();
  }
}

function isEmpty(canvas) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Uint32Array(data.buffer).every((pixel) => pixel === 0);
}

/** Returns a PNG in opaque black with holes where the canvas is painted. */
async function asMask(painted) {
  const { width, height } = painted;
  const canvas = el("canvas", { width, height });
  punch(canvas, painted);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Returns a canvas that is painted where the mask has holes. */
async function holesOf(mask, width, height) {
  const bitmap = await createImageBitmap(mask);
  const canvas = el("canvas", { width, height });
  punch(canvas, bitmap, COLOR);
  bitmap.close();
  return canvas;
}

function punch(canvas, holes, color = "#000") {
  const pen = canvas.getContext("2d");
  pen.fillStyle = color;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "destination-out";
  pen.drawImage(holes, 0, 0);
}
