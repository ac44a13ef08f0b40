// A window over the page that shows one image with all its pixels; what does not fit is scrolled to.

import { $ } from "./dom.js";
import { describeFile, imageElement } from "./image-files.js";

/** Opens the window. The browser returns the focus to the button that was pressed, and Escape closes the window. */
export function showFullSize(image, alt) {
  const { blob, width, height } = image;
  $("viewer-title").textContent = describeFile(image);
  const element = imageElement(blob, alt);
  // One pixel of the image is one pixel of the screen.
  if (width) element.style.width = `${width / devicePixelRatio}px`;
  $("viewer-image").replaceChildren(element);
  $("viewer").showModal();
  $("viewer-image").focus();
}

$("viewer-close").addEventListener("click", () => $("viewer").close());
$("viewer").addEventListener("close", () => $("viewer-image").replaceChildren());
