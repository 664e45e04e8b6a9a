/*
 * Renders one answer of /predict: the picture, the model's input, the class activation,
 * the verdict and a bar for each class.
 *
 * Nothing is inserted as markup: text is set as text and sizes through the DOM, so that
 * the Content-Security-Policy can forbid everything inline.
 */

const HEAT_COLOR = [255, 106, 0]; // red, green, blue
const MAX_OPACITY = 0.85; // of the heat map
const MAP_SIDE = 224; // pixels of the heat map, or more: it is smoother than the input
const SMALL = 100; // pixels; a narrower picture is enlarged without smoothing
const MAX_BARS = 10; // classes shown
const NARROW_SPACE = "\u202f"; // between a number and its unit
const MINUS = "\u2212";

const template = document.getElementById("answer");

/** Create the article about one picture.
 *  @param {object} prediction @param {string} name @param {string} url */
export function createArticle(prediction, name, url) {
  const article = template.content.cloneNode(true).firstElementChild;
  const outcome = prediction.error ?? prediction;
  find(article, ".file").textContent = name;
  setPicture(find(article, ".picture img"), url);
  if (!outcome.explain) {
    fillError(article, outcome);
    return article;
  }
  const ranking = Object.entries(outcome.probabilities ?? outcome.nearest);
  ranking.sort(([, a], [, b]) => b - a);
  fillVerdict(article, outcome, ranking[0]);
  fillBars(find(article, "tbody"), ranking.slice(0, MAX_BARS));
  fillExplanation(article, outcome.explain, ranking[0][0]);
  return article;
}

/** @param {HTMLImageElement} image @param {string} url */
function setPicture(image, url) {
  image.onload = () => image.classList.toggle("small", image.naturalWidth < SMALL);
  image.onerror = () => image.replaceWith("no preview"); // HEIC, TIFF, no picture
  image.src = url;
}

/** Fill in the error of a picture that was not classified.
 *  @param {Element} article @param {{title: string, detail: string}} problem */
function fillError(article, problem) {
  article.dataset.verdict = "refused";
  find(article, ".class").textContent = problem.title;
  find(article, ".reason").textContent = toSentence(problem.detail);
  for (const part of article.querySelectorAll(".explained, table")) part.remove();
}

/** Fill in the class, or that it is unknown, and the reason.
 *  @param {Element} article @param {object} outcome @param {[string, number]} best */
function fillVerdict(article, outcome, [label, probability]) {
  const isUnknown = outcome.code === "unknown_class";
  const { unknown_score: score, explain } = outcome;
  article.dataset.verdict = isUnknown ? "unknown" : "known";
  find(article, ".class").textContent = isUnknown ? "Unknown" : label;
  const percent = isUnknown ? "" : formatPercent(probability);
  find(article, ".probability").textContent = percent;
  find(article, ".reason").textContent = formatReason(
    score,
    explain.unknown_threshold,
    isUnknown && label,
  );
  find(article, "caption").textContent = isUnknown
    ? "Probability of each class, if it were one of them"
    : "Probability of each class";
}

/** Return why a picture is known, or unknown with a nearest class.
 *  @param {number | null} score @param {number | null} threshold
 *  @param {string | false} nearest */
function formatReason(score, threshold, nearest) {
  if (score === null) return "This model refuses nothing: it has no unknown score.";
  const numbers = [score, threshold].map(formatDecimal);
  return nearest
    ? `None of the classes: its unknown score of ${numbers[0]} exceeds the threshold of` +
        ` ${numbers[1]}. The nearest class is ${nearest}.`
    : `Known: its unknown score of ${numbers[0]} does not exceed the threshold of` +
        ` ${numbers[1]}.`;
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

/** @param {Element} article @param {object} explain @param {string} label */
function fillExplanation(article, { pixels, activation }, label) {
  const input = find(article, ".pixels");
  drawPixels(input, pixels);
  input.ariaLabel = `Model input, ${pixels[0].length} by ${pixels.length} pixels`;
  const map = find(article, ".activation");
  if (!activation) return map.closest("figure").remove();
  drawActivation(map, input, activation);
  map.ariaLabel = `Class activation of ${label}: highest ${place(activation)}`;
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

/** Draw the activation over the pixels, its lowest transparent, its highest opaque.
 *
 *  Only differences matter: adding one number to all classes changes no probability.
 *  Opacity is their square, so that the pixels stay visible where they are small.
 *  @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} pixels
 *  @param {number[][]} activation */
function drawActivation(canvas, pixels, activation) {
  const values = activation.flat();
  const lowest = Math.min(...values);
  const range = Math.max(...values) - lowest || 1;
  const rgba = values.flatMap((value) => [
    ...HEAT_COLOR,
    Math.round(255 * MAX_OPACITY * ((value - lowest) / range) ** 2),
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

// Words ----------------------------------------------------------------------

/** Return one answer in words, or the number of answers of each kind.
 *  @param {HTMLElement[]} articles */
export function summarize(articles) {
  if (articles.length === 1) {
    const parts = [".class", ".probability", ".reason"];
    const [label, probability, reason] = parts.map(
      (part) => find(articles[0], part).textContent,
    );
    return probability ? `${label}, ${probability}.` : `${label}. ${reason}`;
  }
  const verdicts = articles.map((article) => article.dataset.verdict);
  const parts = ["known", "unknown", "refused"].flatMap((verdict) => {
    const number = verdicts.filter((each) => each === verdict).length;
    return number ? [`${number} ${verdict}`] : [];
  });
  return `${pictureCount(articles.length)}: ${parts.join(", ")}.`;
}

/** @param {number} number */
export function pictureCount(number) {
  return number === 1 ? "1 picture" : `${number} pictures`;
}

/** @param {string} text */
function toSentence(text) {
  return text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");
}

/** Format a probability; never as certain: 0 and 100 % are not shown.
 *  @param {number} probability */
function formatPercent(probability) {
  const unit = `${NARROW_SPACE}%`;
  if (probability < 0.0005) return `<${NARROW_SPACE}0.1${unit}`;
  if (probability >= 0.9995) return `>${NARROW_SPACE}99.9${unit}`;
  return (100 * probability).toFixed(1) + unit;
}

/** @param {number} value */
function formatDecimal(value) {
  return value.toFixed(2).replace("-", MINUS);
}

/** @param {Element} root @param {string} selector @returns {HTMLElement} */
function find(root, selector) {
  return root.querySelector(selector);
}
