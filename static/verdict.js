/*
 * Puts an answer of /predict into words for people: known, refused or not readable, and
 * whether it is a close call.
 */

const CLOSE_RATIO = 1 / 3; // of the second probability to the first
const JUST_REFUSED = 1 / 2; // of the distance from a typical score to the threshold
const NARROW_SPACE = "\u202f"; // between a number and its unit
const MINUS = "\u2212";

const { typicalScore } = document.getElementById("choose").dataset;

/** Return what there is to say about one picture.
 *  @param {object} prediction an element of `predictions` */
export function judge(prediction) {
  const outcome = prediction.error ?? prediction;
  const probabilities = outcome.probabilities ?? outcome.nearest;
  if (!probabilities) {
    const title = "Not readable";
    const reason = toSentence(outcome.detail);
    return { verdict: "unreadable", title, reason, percent: "", ranking: [] };
  }
  const ranking = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
  const distance = scoreDistance(outcome);
  const words = prediction.error
    ? refusedWords(ranking[0][0], distance)
    : knownWords(ranking);
  return { ...words, ranking, distance };
}

/** @param {[string, number][]} ranking */
function knownWords([[label, probability], [second, secondProbability]]) {
  const isClose = secondProbability >= CLOSE_RATIO * probability;
  return {
    verdict: "known",
    isClose,
    title: isClose ? `${label}, perhaps ${second}` : label,
    percent: formatPercent(probability),
    reason: isClose ? "Two classes are close." : "No other class is close.",
  };
}

/** @param {string} nearest class @param {number | null} distance */
function refusedWords(nearest, distance) {
  const isClose = distance !== null && distance <= 1 + JUST_REFUSED;
  return {
    verdict: "refused",
    isClose,
    title: isClose ? "Only just refused" : "Refused",
    percent: "",
    reason: isClose
      ? `Looks most like ${nearest}; photograph it alone on a plain background.`
      : "It looks like none of the classes.",
  };
}

/** Return how unlike the classes a picture is: 0 as a typical picture of one, 1 at the
 *  threshold; null if the model has no unknown score or no samples to compare with.
 *  @param {object} outcome */
function scoreDistance({ unknown_score: score, explain }) {
  if (score === null || !typicalScore) return null;
  const typical = Number(typicalScore);
  return (score - typical) / (explain.unknown_threshold - typical || 1);
}

/** Return one answer in words, or the number of answers of each kind.
 *  @param {object[]} words of each picture, from `judge` */
export function summarize(words) {
  if (words.length === 1) {
    const [{ title, percent, reason }] = words;
    return percent ? `${title}, ${percent}. ${reason}` : `${title}. ${reason}`;
  }
  const kinds = { known: "known", refused: "refused", unreadable: "not readable" };
  const parts = Object.entries(kinds).flatMap(([verdict, name]) => {
    const count = words.filter((each) => each.verdict === verdict).length;
    return count ? [`${count} ${name}`] : [];
  });
  return `${pictureCount(words.length)}: ${parts.join(", ")}.`;
}

/** @param {number} number */
export function pictureCount(number) {
  return number === 1 ? "1 picture" : `${number} pictures`;
}

/** Format a probability; never as certain: 0 and 100 % are not shown.
 *  @param {number} probability */
export function formatPercent(probability) {
  const unit = `${NARROW_SPACE}%`;
  if (probability < 0.0005) return `<${NARROW_SPACE}0.1${unit}`;
  if (probability >= 0.9995) return `>${NARROW_SPACE}99.9${unit}`;
  return (100 * probability).toFixed(1) + unit;
}

/** @param {number} value */
export function formatDecimal(value) {
  return value.toFixed(2).replace("-", MINUS);
}

/** @param {string} text */
function toSentence(text) {
  return text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");
}
