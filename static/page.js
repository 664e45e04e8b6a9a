/*
 * The page at /: accepts pictures by file, camera, drop, paste or sample, sends them to
 * /predict a few at a time, and shows the answers as they arrive: one as answer.js
 * renders it, several as the rows of list.js. The API key is kept here too, if the
 * service needs one.
 */

import { createArticle } from "./answer.js";
import { AnswerList } from "./list.js";
import { reduce } from "./reduce.js";
import { judge, pictureCount, summarize } from "./verdict.js";

const MEGABYTE = 1024 ** 2;
const PART = 4; // pictures of one request, so that answers appear soon
const FORM_BYTES = 1024; // of a form for each picture, beside the picture
const QUIET_MS = 400; // most answers arrive sooner, and a text that flashes up distracts
const STORED_KEY = "api-key"; // in sessionStorage
const NO_KEY = "This service needs a key.";
const WRONG_KEY = "This key is wrong.";
const NO_ANSWER = "No answer from the service: check the connection.";

const ids = ["choose", "key", "status", "cancel", "retry", "answers", "model"];
const [chooseForm, keyForm, status, cancelButton, retryButton, answers, modelName] =
  ids.map((id) => document.getElementById(id));
const { maxPictures, maxBytes, maxExplained } = chooseForm.dataset;

let controller = new AbortController(); // of the current request
let batch = null; // the pictures chosen last, and their answers so far
let previewUrls = []; // to revoke
let key = loadKey();
let statusTimer;

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
function classify(pictures) {
  batch = { pictures, answers: [], list: null };
  answers.classList.add("stale");
  return proceed();
}

/** Classify those pictures of the batch that have no answer yet. */
async function proceed() {
  const signal = startRequest();
  const { pictures, answers: answered } = batch;
  setBusy(true);
  setStatus(`Classifying ${pictureCount(pictures.length)} \u2026`, "", QUIET_MS);
  try {
    checkCount(pictures.length);
    if (keyForm.dataset.needsKey && !key) throw new PageError(NO_KEY, "unauthorized");
    while (answered.length < pictures.length) {
      const part = await readPart(pictures.slice(answered.length));
      if (signal.aborted) return;
      showAnswers(await send(part, signal));
      const delay = answered.length > PART ? 0 : QUIET_MS;
      setStatus(`${answered.length} of ${pictures.length} \u2026`, "", delay);
    }
    showSummary();
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

/** @param {number} count */
function checkCount(count) {
  if (count <= maxPictures) return;
  const message = `At most ${maxPictures} pictures at once; these are ${count}.`;
  throw new PageError(message, "too_large");
}

/** Return as many pictures as go into one request, ready to be sent.
 *  @param {File[]} pictures @returns {Promise<{name: string, blob: Blob}[]>} */
async function readPart(pictures) {
  const part = [];
  let bytes = 0;
  for (const picture of pictures.slice(0, Math.min(PART, maxExplained))) {
    const one = await read(picture);
    bytes += one.error ? 0 : one.blob.size + FORM_BYTES;
    if (part.length && bytes > maxBytes) break;
    part.push(one);
  }
  return part;
}

/** Return a picture as it is sent, or with the reason why it cannot be.
 *  @param {File} picture */
async function read(picture) {
  const { name } = picture;
  const fail = (detail, code) => ({ name, blob: picture, error: { detail, code } });
  const isReadable = picture.slice(0, 1).arrayBuffer();
  if (!(await isReadable.catch(() => null))) {
    return fail("the browser cannot read this file", "broken_image");
  }
  const blob = await reduce(picture);
  if (blob.size + FORM_BYTES <= maxBytes) return { name, blob };
  const megabytes = Math.ceil(blob.size / MEGABYTE);
  const most = Math.floor(maxBytes / MEGABYTE);
  return fail(`the file has ${megabytes} MB, at most ${most} can be sent`, "too_large");
}

/** Classify pictures in one request; return an answer for each.
 *  @param {object[]} part from `readPart` @param {AbortSignal} signal */
async function send(part, signal) {
  const form = new FormData();
  const sent = part.filter(({ error }) => !error);
  for (const { name, blob } of sent) form.append("image", blob, name);
  const { predictions, model } = sent.length
    ? await request(form, signal)
    : { predictions: [] };
  if (model) modelName.textContent = `${model.name} ${model.version}`;
  return part.map(({ name, blob, error }) => {
    const prediction = error ? { error } : predictions.shift();
    const url = URL.createObjectURL(blob);
    return { name, url, prediction, model, words: judge(prediction) };
  });
}

/** @param {FormData} body @param {AbortSignal} signal */
async function request(body, signal) {
  const headers = key ? { "X-API-Key": key } : {};
  const options = { method: "POST", body, headers, signal };
  const response = await fetch(chooseForm.action, options).catch(() => null);
  const answer = await response?.json().catch(() => null);
  if (response?.ok && answer) return answer;
  if (response?.status === 401) throw new PageError(key ? WRONG_KEY : NO_KEY, "unauthorized");
  if (answer?.title) throw new PageError(`${answer.title}: ${answer.detail}`, answer.code);
  throw new PageError(response ? `The service answered ${response.status}.` : NO_ANSWER);
}

// Show -----------------------------------------------------------------------

/** Show the next answers of the batch; the first replace those of an earlier one.
 *  @param {object[]} next */
function showAnswers(next) {
  const isFirst = !batch.answers.length;
  batch.answers.push(...next);
  if (isFirst) {
    previewUrls.splice(0).forEach((url) => URL.revokeObjectURL(url));
    batch.list = batch.pictures.length > 1 ? new AnswerList() : null;
    answers.replaceChildren(batch.list?.element ?? createArticle(next[0]));
    answers.firstElementChild.scrollIntoView({ block: "nearest" });
    answers.classList.remove("stale");
  }
  previewUrls.push(...next.map(({ url }) => url));
  batch.list?.append(next);
}

/** Announce what has come out. */
function showSummary() {
  const words = batch.answers.map((answer) => answer.words);
  setStatus(summarize(words), words.length === 1 ? "visually-hidden" : "");
}

/** Show why there is no answer; keep the answers that there are.
 *  @param {Error} error */
function showError(error) {
  answers.classList.remove("stale");
  const [done, count] = [batch.answers.length, batch.pictures.length];
  const progress = done ? ` ${done} of ${count} pictures are answered.` : "";
  if (!(error instanceof PageError)) {
    setStatus("This page failed. Reload it and choose the picture again.", "error");
    throw error; // to the console
  }
  setStatus(error.message.replace(/\.?$/, ".") + progress, "error");
  if (error.code === "unauthorized") return showKeyForm();
  retryButton.hidden = error.code === "too_large";
}

/** Announce a text, after a while; show it unless it is "visually-hidden".
 *  @param {string} text @param {"" | "error" | "visually-hidden"} className
 *  @param {number} delay milliseconds */
function setStatus(text, className = "", delay = 0) {
  clearTimeout(statusTimer);
  if (delay) {
    statusTimer = setTimeout(() => setStatus(text, className), delay);
    return;
  }
  status.textContent = text;
  status.className = className;
}

/** @param {boolean} isBusy */
function setBusy(isBusy) {
  answers.ariaBusy = isBusy;
  const hasFocus = [cancelButton, retryButton].includes(document.activeElement);
  if (hasFocus) chooseForm.elements[0].focus();
  cancelButton.hidden = !isBusy;
  if (!isBusy) return;
  retryButton.hidden = true;
  setStatus("");
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

/** Ask for the key. */
function showKeyForm() {
  keyForm.hidden = false;
  keyForm.elements[0].select();
}

/** Keep a key that the service accepts, and send what has waited for it.
 *  @param {SubmitEvent} event */
async function tryKey(event) {
  event.preventDefault();
  const value = keyForm.elements[0].value;
  const options = { headers: { "X-API-Key": value }, signal: startRequest() };
  const response = await fetch(keyForm.action, options).catch(() => null);
  if (options.signal.aborted) return;
  if (!response?.ok) {
    setStatus(response?.status === 401 ? WRONG_KEY : NO_ANSWER, "error");
    return showKeyForm();
  }
  key = value;
  keyForm.hidden = true;
  chooseForm.elements[0].focus();
  setStatus("The key is right.");
  if (batch && batch.answers.length < batch.pictures.length) proceed();
  sessionStorage.setItem(STORED_KEY, key); // until the tab is closed
}

keyForm.addEventListener("submit", tryKey);
if (keyForm.dataset.needsKey && !key) showKeyForm();

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
  const response = await fetch(button.firstElementChild.src, { signal }).catch(() => null);
  const picture = await response?.blob().catch(() => null);
  if (signal.aborted) return; // a later request has started
  if (picture) classify([new File([picture], button.title)]);
  else setStatus(NO_ANSWER, "error");
}

document.addEventListener("paste", (event) => {
  const pictures = [...event.clipboardData.files];
  if (pictures.length) classify(pictures);
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

/** Abort the current request; the answers that there are stay. */
function cancel() {
  if (cancelButton.hidden) return;
  controller.abort();
  answers.classList.remove("stale");
  setBusy(false);
  setStatus("Cancelled.");
  retryButton.hidden = false;
}

cancelButton.addEventListener("click", cancel);
retryButton.addEventListener("click", proceed);
document.addEventListener("keydown", (event) => event.key === "Escape" && cancel());

/** Print the numbers of the answers that are open. */
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".numbers").forEach((each) => (each.open = true));
});
