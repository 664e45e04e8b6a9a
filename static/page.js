/*
 * The page at /: accepts pictures by file, camera, drop, paste or sample, sends them to
 * /predict in one request, and shows the answers, which answer.js renders. The API key
 * is kept here too, if the service needs one.
 */

import { createArticle, pictureCount, summarize } from "./answer.js";

const MEGABYTE = 1024 ** 2;
const BASE64_RATIO = 4 / 3; // length of base64 to length of the file
const STORED_KEY = "api-key"; // in sessionStorage
const NO_ANSWER =
  "No answer from the service. Check the connection and choose the picture again.";

const ids = ["choose", "key", "status", "cancel", "answers", "model"];
const [chooseForm, keyForm, status, cancelButton, answers, modelName] = ids.map((id) =>
  document.getElementById(id),
);

let controller = new AbortController(); // of the current request
let lastPictures = []; // to send again with a key
let previewUrls = []; // to revoke
let key = loadKey();

/** An error with a message for people; `code` is that of the service's problem. */
class PageError extends Error {
  /** @param {string} message @param {string} code */
  constructor(message, code = "") {
    super(message);
    this.code = code;
  }
}

// Classify -------------------------------------------------------------------

/** Classify pictures and show the answers; a new choice replaces the current one.
 *  @param {File[]} pictures */
async function classify(pictures) {
  const signal = startRequest();
  lastPictures = pictures;
  if (keyForm.contains(document.activeElement)) chooseForm.elements[0].focus();
  keyForm.hidden = true;
  setBusy(true);
  setStatus(`Classifying ${pictureCount(pictures.length)} \u2026`);
  try {
    checkLimits(pictures);
    const step = Number(chooseForm.dataset.maxExplained);
    const articles = [];
    const urls = [];
    for (let start = 0; start < pictures.length; start += step) {
      const part = pictures.slice(start, start + step);
      const { predictions, model } = await send(part, signal);
      modelName.textContent = `${model.name} ${model.version}`;
      predictions.forEach((prediction, index) => {
        urls.push(URL.createObjectURL(part[index]));
        articles.push(createArticle(prediction, part[index].name, urls.at(-1)));
      });
    }
    showAnswers(articles, urls);
  } catch (error) {
    if (!signal.aborted) showError(error); // else a later request sets the status
  } finally {
    if (!signal.aborted) setBusy(false);
  }
}

/** Abort the current request; return the signal of the next one.
 *  @returns {AbortSignal} */
function startRequest() {
  controller.abort();
  controller = new AbortController();
  return controller.signal;
}

/** Send pictures in one request; return the answer to a batch.
 *  @param {File[]} pictures @param {AbortSignal} signal */
async function send(pictures, signal) {
  const body = await toBody(pictures);
  const headers = key ? { "X-API-Key": key } : {};
  let response, answer;
  try {
    const options = { method: "POST", body, headers, signal };
    response = await fetch(chooseForm.action, options);
    answer = await response.json();
  } catch {
    throw new PageError(NO_ANSWER);
  }
  if (response.ok) return answer;
  throw new PageError(`${answer.title}: ${answer.detail}`, answer.code);
}

/** Throw what the service would answer anyway, before minutes of sending.
 *  @param {File[]} pictures */
function checkLimits(pictures) {
  const { maxPictures, maxBytes } = chooseForm.dataset;
  const count = pictures.length;
  if (count > maxPictures) {
    throw new PageError(`At most ${maxPictures} pictures at once; these are ${count}.`);
  }
  const limit = count > 1 ? maxBytes : maxBytes / BASE64_RATIO;
  const bytes = pictures.reduce((sum, picture) => sum + picture.size, 0);
  if (bytes > limit) {
    const [sent, most] = [Math.ceil(bytes / MEGABYTE), Math.floor(limit / MEGABYTE)];
    throw new PageError(`At most ${most} MB at once; these pictures are ${sent} MB.`);
  }
}

/** Return the body of a request: a form, or for one picture a batch of one in JSON.
 *
 *  A single picture in a form that is none of the classes would be a failed request,
 *  which browsers log as an error of the page.
 *  @param {File[]} pictures @returns {Promise<FormData | Blob>} */
async function toBody(pictures) {
  if (pictures.length === 1) {
    const body = JSON.stringify({ images: [await toBase64(pictures[0])] });
    return new Blob([body], { type: "application/json" });
  }
  const form = new FormData();
  for (const picture of pictures) {
    await picture.slice(0, 1).arrayBuffer().catch(() => throwUnreadable(picture));
    form.append("image", picture);
  }
  return form;
}

/** @param {File} picture @returns {Promise<string>} */
function toBase64(picture) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  }).catch(() => throwUnreadable(picture));
}

/** @param {File} picture */
function throwUnreadable(picture) {
  throw new PageError(`${picture.name} cannot be read.`);
}

// Show -----------------------------------------------------------------------

/** Show the answers, in the order of the pictures, and their previews' addresses.
 *  @param {HTMLElement[]} articles @param {string[]} urls */
function showAnswers(articles, urls) {
  previewUrls.forEach((url) => URL.revokeObjectURL(url));
  previewUrls = urls;
  answers.replaceChildren(...articles);
  setStatus(summarize(articles), articles.length === 1 ? "visually-hidden" : "");
  articles[0].scrollIntoView({ block: "nearest" });
}

/** Show why there is no answer, and the field for a key if that is the reason.
 *  @param {Error} error */
function showError(error) {
  answers.replaceChildren();
  if (!(error instanceof PageError)) {
    setStatus("This page failed. Reload it and choose the picture again.", "error");
    throw error; // to the console
  }
  setStatus(error.message.replace(/\.?$/, "."), "error");
  if (error.code !== "unauthorized") return;
  keyForm.hidden = false;
  keyForm.elements[0].select();
}

/** Announce a text; show it unless it is "visually-hidden".
 *  @param {string} text @param {"" | "error" | "visually-hidden"} className */
function setStatus(text, className = "") {
  status.textContent = text;
  status.className = className;
}

/** @param {boolean} isBusy */
function setBusy(isBusy) {
  answers.ariaBusy = isBusy;
  const hasFocus = document.activeElement === cancelButton;
  if (!isBusy && hasFocus) chooseForm.elements[0].focus();
  cancelButton.hidden = !isBusy;
}

// Key ------------------------------------------------------------------------

/** @returns {string | null} */
function loadKey() {
  try {
    return sessionStorage.getItem(STORED_KEY);
  } catch {
    return null; // the browser forbids storage
  }
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  key = keyForm.elements[0].value;
  classify(lastPictures);
  sessionStorage.setItem(STORED_KEY, key); // until the tab is closed
});

// Inputs ---------------------------------------------------------------------

for (const input of chooseForm.elements) {
  input.addEventListener("change", () => {
    const pictures = [...input.files];
    input.value = ""; // the same picture can be chosen again
    if (pictures.length) classify(pictures);
  });
}

for (const button of document.querySelectorAll("#samples button")) {
  button.addEventListener("click", () => classifySample(button));
}

/** @param {HTMLButtonElement} button around the picture */
async function classifySample(button) {
  const signal = startRequest();
  const url = button.firstElementChild.src;
  const response = await fetch(url, { signal }).catch(() => null);
  const picture = await response?.blob().catch(() => null);
  if (signal.aborted) return; // a later request has started
  setBusy(false); // of the aborted request
  if (!response?.ok || !picture) return showError(new PageError(NO_ANSWER));
  classify([new File([picture], button.title)]);
}

document.addEventListener("paste", (event) => {
  const pictures = [...event.clipboardData.files];
  if (pictures.length) classify(pictures);
  else if (!keyForm.contains(event.target)) setStatus("No picture to paste.", "error");
});

document.addEventListener("dragover", (event) => {
  if (keyForm.contains(event.target)) return;
  event.preventDefault(); // or the browser would open the file
  document.body.classList.add("dragged");
});

document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});

document.addEventListener("drop", (event) => {
  if (keyForm.contains(event.target)) return;
  event.preventDefault();
  document.body.classList.remove("dragged");
  const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
  const files = items.filter((item) => !item.webkitGetAsEntry()?.isDirectory);
  if (files.length) classify(files.map((item) => item.getAsFile()));
  else setStatus(items.length ? "This is a folder." : "No picture to drop.", "error");
});

/** Abort the current request. */
function cancel() {
  if (cancelButton.hidden) return;
  controller.abort();
  setBusy(false);
  setStatus("Cancelled.");
}

cancelButton.addEventListener("click", cancel);
document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());
