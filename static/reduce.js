/*
 * Reduces large photos before they are sent: a phone's 4 MB become some 150 kB, and no
 * model input needs more. What the browser cannot decode is sent as it is.
 */

const LARGE_BYTES = 500_000; // smaller files are sent as they are
const LONGEST_SIDE = 1024; // pixels
const JPEG_QUALITY = 0.9;
const PROBE = 77; // a grey level that a canvas must give back

/** Return a smaller copy of a large photo, upright and without metadata, else the file.
 *  @param {File} file @returns {Promise<Blob>} */
export async function reduce(file) {
  if (file.size <= LARGE_BYTES) return file;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return file; // HEIC, TIFF, no picture
  const canvas = drawReduced(bitmap);
  bitmap.close();
  const type = canvas && (isOpaque(canvas) ? "image/jpeg" : "image/png");
  const copy = canvas && (await toBlob(canvas, type));
  return copy && copy.size < file.size ? copy : file;
}

/** Return a canvas with the picture, or null if the browser falsifies canvases.
 *  @param {ImageBitmap} bitmap */
function drawReduced(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = `rgb(${PROBE} ${PROBE} ${PROBE})`;
  context.fillRect(0, 0, 1, 1);
  if (context.getImageData(0, 0, 1, 1).data[0] !== PROBE) return null;
  context.clearRect(0, 0, 1, 1);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** Return whether no pixel is transparent: JPEG would make such pixels black.
 *  @param {HTMLCanvasElement} canvas */
function isOpaque(canvas) {
  const context = canvas.getContext("2d");
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let index = 3; index < data.length; index += 4) {
    if (data[index] < 255) return false;
  }
  return true;
}

/** @param {HTMLCanvasElement} canvas @param {string} type
 *  @returns {Promise<Blob | null>} */
function toBlob(canvas, type) {
  return new Promise((resolve) => canvas.toBlob(resolve, type, JPEG_QUALITY));
}
