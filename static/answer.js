/*
 * Renders the whole answer about one picture: the picture, the model's input, the class
 * activation, the verdict, how unlike the classes it is, and a bar for each class.
 *
 * Nothing is inserted as markup: text is set as text and sizes through the DOM, so that
 * the Content-Security-Policy can forbid everything inline.
 */

import { fillCopyButtons } from "./copy.js";
import { formatDecimal, formatPercent } from "./verdict.js";

const HEAT_COLORS = { known: [255, 106, 0], refused: [150, 150, 150] }; // RGB
const MAX_OPACITY = 0.85; // of the heat map
const MAP_SIDE = 224; // pixels of the heat map, or more: it is smoother than the input
const SMALL = 100; // pixels; a narrower picture is enlarged without smoothing
const MAX_BARS = 10; // classes shown

const template = document.getElementById("answer");
const { activationScale } = document.getElementById("choose").dataset;

/** Create the article about one picture.
 *  @param {object} answer of `page.js`: name, url, prediction, model and words */
export function createArticle(answer) {
  const { name, url, prediction, words } = answer;
  const article = template.content.cloneNode(true).firstElementChild;
  article.dataset.verdict = words.verdict;
  find(article, ".class").textContent = words.title;
  find(article, ".probability").textContent = words.percent;
  find(article, ".file").textContent = name;
  find(article, ".reason").textContent = words.reason;
  setPicture(find(article, ".picture img"), url);
  fillCopyButtons(find(article, ".copy"), answer);
  const outcome = prediction.error ?? prediction;
  if (!outcome.explain) {
    for (const part of article.querySelectorAll(".explained")) part.remove();
    return article;
  }
  fillNumbers(article, outcome, words);
  fillGauge(find(article, ".gauge"), words.distance);
  fillExplanation(article, outcome.explain, words);
  return article;
}

/** @param {HTMLImageElement} image @param {string} url
 *  @param {string} instead of a picture that the browser cannot show */
export function setPicture(image, url, instead = "no preview") {
  image.onload = () => image.classList.toggle("small", image.naturalWidth < SMALL);
  image.onerror = () => image.replaceWith(instead); // HEIC, TIFF, no picture
  image.src = url;
}

/** @param {Element} article @param {object} outcome @param {object} words */
function fillNumbers(article, outcome, { verdict, ranking }) {
  const score = outcome.unknown_score;
  const threshold = outcome.explain.unknown_threshold;
  find(article, ".score").textContent =
    score === null
      ? "This model refuses nothing: it has no unknown score."
      : `Unknown score ${formatDecimal(score)}; refused above ${formatDecimal(threshold)}.`;
  find(article, "caption").textContent =
    verdict === "refused"
      ? "Probability of each class, if it were one of them"
      : "Probability of each class";
  fillBars(find(article, "tbody"), ranking.slice(0, MAX_BARS));
}

/** Show how unlike the classes a picture is, with the threshold in the middle.
 *  @param {Element} gauge @param {number | null} distance */
function fillGauge(gauge, distance) {
  if (distance === null) return gauge.remove();
  const percent = Math.round(50 * Math.min(2, Math.max(0, distance)));
  const scale = find(gauge, "[role=meter]");
  scale.style.setProperty("--share", percent / 100);
  scale.ariaValueNow = percent;
  scale.ariaValueText = `${percent} of 100; refused above 50`;
}

/** @param {Element} body of a table @param {[string, number][]} ranking */
function fillBars(body, ranking) {
  for (const [label, probability] of ranking) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label;
    row.append(head);
    const cell = row.insertCell();
    cell.textContent = formatPercent(probability);
    cell.style.setProperty("--share", probability);
  }
}

/** @param {Element} article @param {object} explain @param {object} words */
function fillExplanation(article, { pixels, activation }, { verdict, ranking }) {
  const input = find(article, ".pixels");
  drawPixels(input, pixels);
  input.ariaLabel = `Model input, ${pixels[0].length} by ${pixels.length} pixels`;
  const map = find(article, ".activation");
  const figure = map.closest("figure");
  if (!activation) return figure.remove();
  drawActivation(map, input, activation, HEAT_COLORS[verdict]);
  const [[label]] = ranking;
  find(figure, ".subject").textContent = `What spoke for ${label}`;
  map.ariaLabel = `What spoke for ${label}: most ${place(activation)}`;
}

/** @param {HTMLCanvasElement} canvas
 *  @param {(number | number[])[][]} pixels grey levels or [red, green, blue] */
function drawPixels(canvas, pixels) {
  const rgba = pixels.flat().flatMap((pixel) => {
    const [red, green = red, blue = red] = [pixel].flat();
    return [red, green, blue, 255];
  });
  draw(canvas, rgba, pixels[0].length);
}

/** Draw the activation over the pixels, on the same scale for every picture.
 *
 *  Transparent at 0 and below, opaque where a sample of the model is highest. Opacity is
 *  the square of the activation, so that the pixels stay visible where it is small.
 *  @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} pixels
 *  @param {number[][]} activation @param {number[]} color */
function drawActivation(canvas, pixels, activation, color) {
  const values = activation.flat();
  const full = Number(activationScale) || Math.max(...values, 1);
  const rgba = values.flatMap((value) => [
    ...color,
    Math.round(255 * MAX_OPACITY * Math.min(1, Math.max(0, value / full)) ** 2),
  ]);
  const map = document.createElement("canvas");
  draw(map, rgba, activation[0].length);
  canvas.width = canvas.height = pixels.width * Math.ceil(MAP_SIDE / pixels.width);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
}

/** @param {HTMLCanvasElement} canvas @param {number[]} rgba @param {number} width */
function draw(canvas, rgba, width) {
  const image = new ImageData(new Uint8ClampedArray(rgba), width);
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Return where the highest activation is, for screen readers.
 *  @param {number[][]} activation */
function place(activation) {
  const values = activation.flat();
  const index = values.indexOf(Math.max(...values));
  const columns = activation[0].length;
  const [row, column] = [Math.floor(index / columns), index % columns];
  const third = (position, size) => Math.round((2 * position) / Math.max(1, size - 1));
  const vertical = ["at the top", "in the middle", "at the bottom"];
  const horizontal = ["left", "centre", "right"];
  const height = vertical[third(row, activation.length)];
  return `${height}, ${horizontal[third(column, columns)]}`;
}

/** @param {Element} root @param {string} selector @returns {HTMLElement} */
function find(root, selector) {
  return root.querySelector(selector);
}
