/*
 * One answer of /predict as a piece of the page: the picture, the pixels the network
 * saw, where it looked, the verdict and a bar for each class.
 *
 * Nothing is ever put in as markup. Text goes in as text and sizes through the DOM, so
 * that the Content-Security-Policy can forbid everything inline.
 */

const HEAT = [255, 106, 0]; // red, green, blue
const MOST_HEAT = 0.85; // opacity where the network looked most
const HEAT_SCALE = 8; // dots a pixel, so that the heat is smooth where pixels are not
const SMALL = 100; // pixels; a narrower picture is shown without smoothing
const NARROW_SPACE = "\u202f"; // between a number and its unit
const MINUS = "\u2212";

const template = document.getElementById("answer");

/** Make the article about one picture.
 *  @param {object} prediction @param {string} name @param {string} address */
export function describe(prediction, name, address) {
  const article = template.content.cloneNode(true).firstElementChild;
  const outcome = prediction.error ?? prediction;
  find(article, ".file").textContent = name;
  showPicture(find(article, ".picture img"), address);
  if (!outcome.explain) {
    showFault(article, outcome);
    return article;
  }
  const ranking = Object.entries(outcome.probabilities ?? outcome.nearest);
  ranking.sort(([, a], [, b]) => b - a);
  showVerdict(article, outcome, ranking[0]);
  showBars(find(article, "tbody"), ranking);
  showExplanation(article, outcome.explain, ranking[0][0]);
  return article;
}

/** @param {HTMLImageElement} image @param {string} address */
function showPicture(image, address) {
  image.onload = () => image.classList.toggle("small", image.naturalWidth < SMALL);
  image.onerror = () => image.replaceWith("no preview"); // HEIC, TIFF, no picture
  image.src = address;
}

/** Say what is wrong with a picture that the network never saw.
 *  @param {Element} article @param {{title: string, detail: string}} problem */
function showFault(article, problem) {
  article.dataset.verdict = "refused";
  find(article, ".class").textContent = problem.title;
  find(article, ".reason").textContent = sentence(problem.detail);
  for (const part of article.querySelectorAll(".explained, table")) part.remove();
}

/** Say the class, or that it is none, and why.
 *  @param {Element} article @param {object} outcome @param {[string, number]} best */
function showVerdict(article, outcome, [label, probability]) {
  const isUnknown = outcome.code === "unknown_class";
  const score = decimal(outcome.unknown_score);
  const threshold = decimal(outcome.explain.unknown_threshold);
  article.dataset.verdict = isUnknown ? "unknown" : "known";
  find(article, ".class").textContent = isUnknown ? "Unknown" : label;
  find(article, ".probability").textContent = isUnknown ? "" : percent(probability);
  find(article, ".reason").textContent = isUnknown
    ? `None of the classes: its unknown score of ${score} exceeds the threshold of` +
      ` ${threshold}. The nearest class is ${label}.`
    : `Known: its unknown score of ${score} does not exceed the threshold of` +
      ` ${threshold}.`;
  find(article, "caption").textContent = isUnknown
    ? "Probability of each class, were it one of them"
    : "Probability of each class";
}

/** @param {Element} body of a table @param {[string, number][]} ranking */
function showBars(body, ranking) {
  for (const [label, probability] of ranking) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label;
    row.append(head);
    const cell = row.insertCell();
    cell.textContent = percent(probability);
    cell.style.setProperty("--share", probability);
  }
}

/** @param {Element} article @param {object} explain @param {string} label */
function showExplanation(article, { pixels, activation }, label) {
  const seen = find(article, ".pixels");
  paintPixels(seen, pixels);
  seen.ariaLabel = `The ${pixels.length} by ${pixels.length} grey pixels it was shown`;
  const heat = find(article, ".heat");
  paintHeat(heat, seen, activation);
  heat.ariaLabel = `Heat map: most speaks for ${label} ${hottest(activation)}`;
}

/** @param {HTMLCanvasElement} canvas @param {number[][]} pixels grey, 0 to 255 */
function paintPixels(canvas, pixels) {
  const dots = pixels.flat().flatMap((grey) => [grey, grey, grey, 255]);
  paint(canvas, dots, pixels[0].length);
}

/** Lay the activation over the pixels, from its least (clear) to its most (opaque).
 *
 *  Only differences count: adding one number to all classes changes no probability.
 *  Their squares keep the pixels visible wherever the network did not look most.
 *  @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} pixels
 *  @param {number[][]} activation */
function paintHeat(canvas, pixels, activation) {
  const values = activation.flat();
  const least = Math.min(...values);
  const range = Math.max(...values) - least || 1;
  const dots = values.flatMap((value) => [
    ...HEAT,
    Math.round(255 * MOST_HEAT * ((value - least) / range) ** 2),
  ]);
  const heat = document.createElement("canvas");
  paint(heat, dots, activation[0].length);
  canvas.width = canvas.height = HEAT_SCALE * pixels.width;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.drawImage(heat, 0, 0, canvas.width, canvas.height);
}

/** @param {HTMLCanvasElement} canvas @param {number[]} dots in RGBA
 *  @param {number} width */
function paint(canvas, dots, width) {
  const image = new ImageData(new Uint8ClampedArray(dots), width);
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Put the hottest place in words, for who cannot see the map.
 *  @param {number[][]} activation */
function hottest(activation) {
  const values = activation.flat();
  const index = values.indexOf(Math.max(...values));
  const columns = activation[0].length;
  const [row, column] = [Math.floor(index / columns), index % columns];
  const third = (place, places) => Math.round((2 * place) / Math.max(1, places - 1));
  const height = ["at the top", "in the middle", "at the bottom"];
  const side = ["left", "centre", "right"];
  return `${height[third(row, activation.length)]}, ${side[third(column, columns)]}`;
}

// Words ----------------------------------------------------------------------

/** Say one answer whole, and count several.
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
  return `${count(articles.length)}: ${parts.join(", ")}.`;
}

/** @param {number} number of pictures */
export function count(number) {
  return number === 1 ? "1 picture" : `${number} pictures`;
}

/** @param {string} text */
function sentence(text) {
  return text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");
}

/** Never claim certainty: 0 and 100 % are rounded away from.
 *  @param {number} probability */
function percent(probability) {
  const unit = `${NARROW_SPACE}%`;
  if (probability < 0.0005) return `<${NARROW_SPACE}0.1${unit}`;
  if (probability >= 0.9995) return `>${NARROW_SPACE}99.9${unit}`;
  return (100 * probability).toFixed(1) + unit;
}

/** @param {number} value */
function decimal(value) {
  return value.toFixed(2).replace("-", MINUS);
}

/** @param {Element} root @param {string} selector @returns {HTMLElement} */
function find(root, selector) {
  return root.querySelector(selector);
}
