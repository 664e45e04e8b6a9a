/*
 * The page at /: takes pictures however they come, asks /predict about all of them in
 * one request, and has show.js show the answers. The API key, if the service wants one,
 * is kept here too.
 */

import { count, describe, summarize } from "./show.js";

const MEGABYTE = 1024 ** 2;
const BASE64 = 4 / 3; // how much longer it makes a picture
const STORED_KEY = "api-key"; // in sessionStorage
const NO_ANSWER =
  "No answer from the service. Check the connection and choose the picture again.";

const ids = ["choose", "key", "status", "cancel", "answers", "model"];
const [choose, keyForm, status, cancel, answers, modelName] = ids.map((id) =>
  document.getElementById(id),
);

let asking = new AbortController(); // stops the request under way
let latest = []; // the pictures asked about last
let previews = []; // addresses of the pictures shown, to be given back
let key = readKey();

/** A failure that the service, or this page, has put in words. */
class Refusal extends Error {
  /** @param {string} text @param {string} code */
  constructor(text, code = "") {
    super(text);
    this.code = code;
  }
}

// Ask ------------------------------------------------------------------------

/** Ask about pictures and show the answers; a new choice replaces the old one.
 *  @param {File[]} pictures */
async function ask(pictures) {
  const signal = begin();
  latest = pictures;
  if (keyForm.contains(document.activeElement)) choose.elements[0].focus();
  keyForm.hidden = true;
  setBusy(true);
  say(`Asking about ${count(pictures.length)} \u2026`);
  try {
    const { predictions, model } = await send(pictures, signal);
    show(pictures, predictions);
    modelName.textContent = `${model.name} ${model.version}`;
  } catch (error) {
    if (!signal.aborted) complain(error); // else whoever stopped it has the word
  } finally {
    if (!signal.aborted) setBusy(false);
  }
}

/** Stop the request under way; return what will stop the next one.
 *  @returns {AbortSignal} */
function begin() {
  asking.abort();
  asking = new AbortController();
  return asking.signal;
}

/** Send all pictures in one request; return the answer to a batch.
 *  @param {File[]} pictures @param {AbortSignal} signal */
async function send(pictures, signal) {
  refuseTooMuch(pictures);
  const body = await pack(pictures);
  const headers = key ? { "X-API-Key": key } : {};
  let response, answer;
  try {
    response = await fetch(choose.action, { method: "POST", body, headers, signal });
    answer = await response.json();
  } catch {
    throw new Refusal(NO_ANSWER);
  }
  if (!response.ok) throw new Refusal(`${answer.title}: ${answer.detail}`, answer.code);
  return answer;
}

/** Say what the service would refuse anyway before minutes go into sending it.
 *  @param {File[]} pictures */
function refuseTooMuch(pictures) {
  const { maxPictures, maxBytes } = choose.dataset;
  if (pictures.length > maxPictures) {
    const sent = pictures.length;
    throw new Refusal(`At most ${maxPictures} pictures go at once; these are ${sent}.`);
  }
  const most = pictures.length > 1 ? maxBytes : maxBytes / BASE64;
  const bytes = pictures.reduce((sum, picture) => sum + picture.size, 0);
  if (bytes > most) {
    const [sent, limit] = [Math.ceil(bytes / MEGABYTE), Math.floor(most / MEGABYTE)];
    throw new Refusal(`At most ${limit} MB go at once; these pictures are ${sent} MB.`);
  }
}

/** Make the body of a request: a form, or of one picture a batch of one in JSON.
 *
 *  A single picture in a form that is none of the classes would be a failed request,
 *  which browsers report as a fault of the page.
 *  @param {File[]} pictures @returns {Promise<FormData | Blob>} */
async function pack(pictures) {
  if (pictures.length === 1) {
    const body = JSON.stringify({ images: [await readBase64(pictures[0])] });
    return new Blob([body], { type: "application/json" });
  }
  const form = new FormData();
  for (const picture of pictures) {
    await picture.slice(0, 1).arrayBuffer().catch(() => refuseUnreadable(picture));
    form.append("image", picture);
  }
  return form;
}

/** @param {File} picture @returns {Promise<string>} */
function readBase64(picture) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1] ?? "");
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(picture);
  }).catch(() => refuseUnreadable(picture));
}

/** @param {File} picture */
function refuseUnreadable(picture) {
  throw new Refusal(`${picture.name} cannot be read.`);
}

/** Say why there is no answer, and ask for a key if that is the reason.
 *  @param {Error} error */
function complain(error) {
  answers.replaceChildren();
  if (!(error instanceof Refusal)) {
    say("This page has a fault. Reload it, and choose the picture again.", "fault");
    throw error; // to the console
  }
  say(error.message.replace(/\.?$/, "."), "fault");
  if (error.code !== "unauthorized") return;
  keyForm.hidden = false;
  keyForm.elements[0].select();
}

/** Show the answers in the order of the pictures.
 *  @param {File[]} pictures @param {object[]} predictions */
function show(pictures, predictions) {
  previews.forEach((address) => URL.revokeObjectURL(address));
  previews = pictures.map((picture) => URL.createObjectURL(picture));
  const articles = predictions.map((prediction, index) =>
    describe(prediction, pictures[index].name, previews[index]),
  );
  answers.replaceChildren(...articles);
  say(summarize(articles), articles.length === 1 ? "heard" : "");
  articles[0].scrollIntoView({ block: "nearest" });
}

/** Show and announce; with the manner "heard" only announce what is shown elsewhere.
 *  @param {string} text @param {"" | "fault" | "heard"} manner */
function say(text, manner = "") {
  status.textContent = text;
  status.className = manner;
}

/** @param {boolean} busy */
function setBusy(busy) {
  answers.ariaBusy = busy;
  if (!busy && document.activeElement === cancel) choose.elements[0].focus();
  cancel.hidden = !busy;
}

// Key ------------------------------------------------------------------------

/** @returns {string | null} */
function readKey() {
  try {
    return sessionStorage.getItem(STORED_KEY);
  } catch {
    return null; // the browser forbids storage
  }
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  key = keyForm.elements[0].value;
  ask(latest);
  sessionStorage.setItem(STORED_KEY, key); // until the tab is closed
});

// Take pictures --------------------------------------------------------------

for (const input of choose.elements) {
  input.addEventListener("change", () => {
    const pictures = [...input.files];
    input.value = ""; // the same picture can be chosen again
    if (pictures.length) ask(pictures);
  });
}

for (const button of document.querySelectorAll("#samples button")) {
  button.addEventListener("click", () => askAboutSample(button.firstElementChild.src));
}

/** @param {string} address */
async function askAboutSample(address) {
  const signal = begin();
  const response = await fetch(address, { signal }).catch(() => null);
  const picture = await response?.blob().catch(() => null);
  if (signal.aborted) return; // something else was chosen meanwhile
  setBusy(false); // with what was stopped
  if (!response?.ok || !picture) return complain(new Refusal(NO_ANSWER));
  ask([new File([picture], address.split("/").pop())]);
}

document.addEventListener("paste", (event) => {
  const pictures = [...event.clipboardData.files];
  if (pictures.length) ask(pictures);
  else if (!keyForm.contains(event.target)) say("No picture to paste.", "fault");
});

document.addEventListener("dragover", (event) => {
  if (keyForm.contains(event.target)) return;
  event.preventDefault(); // or the browser would open what is dropped
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
  if (files.length) ask(files.map((item) => item.getAsFile()));
  else say(items.length ? "Drop pictures, no folder." : "No picture to drop.", "fault");
});

/** Give up on the request under way. */
function stop() {
  if (cancel.hidden) return;
  asking.abort();
  setBusy(false);
  say("Cancelled.");
}

cancel.addEventListener("click", stop);
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
