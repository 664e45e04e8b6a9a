/*
 * The answers about several pictures: a row each that opens to the whole answer, filters
 * over the rows, and the answers as a file.
 */

import { createArticle, setPicture } from "./answer.js";
import { toDocument } from "./copy.js";

const FILTERS = {
  All: () => true,
  Known: ({ verdict }) => verdict === "known",
  "Close calls": ({ isClose }) => isClose,
  Refused: ({ verdict }) => verdict === "refused",
  "Not readable": ({ verdict }) => verdict === "unreadable",
};
const COLUMNS = [
  "file",
  "verdict",
  "close_call",
  "class",
  "probability",
  "second_class",
  "second_probability",
  "unknown_score",
  "reason",
];

const [section, rowTemplate] = ["list", "row"].map((id) =>
  document.getElementById(id).content.firstElementChild,
);

/** A list of answers that grows while they arrive. */
export class AnswerList {
  #answers = [];
  #rows = [];
  #filter = "All";

  constructor() {
    this.element = section.cloneNode(true);
    this.element.querySelectorAll("[data-format]").forEach((button) => {
      button.addEventListener("click", () => this.#download(button.dataset.format));
    });
  }

  /** @param {object[]} answers of `page.js`, the next ones */
  append(answers) {
    const rows = answers.map(createRow);
    this.#answers.push(...answers);
    this.#rows.push(...rows);
    this.element.querySelector("ol").append(...rows);
    this.#update();
  }

  /** Show the rows of the filter, and how many rows each filter has. */
  #update() {
    const buttons = Object.entries(FILTERS).map(([name, matches]) => {
      const count = this.#answers.filter(({ words }) => matches(words)).length;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${name} ${count}`;
      button.ariaPressed = name === this.#filter;
      button.disabled = !count;
      button.addEventListener("click", () => this.#setFilter(name));
      return button;
    });
    const group = this.element.querySelector(".filters");
    const focused = [...group.children].indexOf(document.activeElement);
    group.replaceChildren(...buttons);
    buttons[focused]?.focus();
    this.#rows.forEach((row, index) => {
      row.hidden = !FILTERS[this.#filter](this.#answers[index].words);
    });
  }

  /** @param {string} name of a filter */
  #setFilter(name) {
    this.#filter = name;
    this.#update();
  }

  /** @param {"csv" | "json"} format */
  #download(format) {
    const text = format === "csv" ? toCsv(this.#answers) : toJson(this.#answers);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: `text/${format}` }));
    link.download = `answers.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

/** @param {object} answer */
function createRow(answer) {
  const row = rowTemplate.cloneNode(true);
  const details = row.firstElementChild;
  const { words, name } = answer;
  row.dataset.verdict = words.verdict;
  const texts = { class: words.title, probability: words.percent };
  for (const [part, text] of Object.entries({ ...texts, reason: words.reason, file: name })) {
    row.querySelector(`.${part}`).textContent = text;
  }
  setPicture(row.querySelector("img"), answer.url, "\u2013");
  details.addEventListener("toggle", () => {
    if (details.childElementCount > 1) return;
    const article = createArticle(answer);
    article.querySelector("h2").remove(); // the row has it
    details.append(article);
  });
  return row;
}

/** @param {object[]} answers */
function toJson(answers) {
  const rows = answers.map((answer) => ({ file: answer.name, ...toDocument(answer) }));
  return JSON.stringify(rows, null, 2) + "\n";
}

/** Return a table for spreadsheets, which know UTF-8 by its byte order mark.
 *  @param {object[]} answers */
function toCsv(answers) {
  const rows = answers.map(({ name, prediction, words }) => {
    const [first = ["", ""], second = ["", ""]] = words.ranking;
    const score = (prediction.error ?? prediction).unknown_score;
    const isClose = words.isClose ? "yes" : "";
    return [name, words.verdict, isClose, ...first, ...second, score, words.reason];
  });
  return "\ufeff" + [COLUMNS, ...rows].map((row) => row.map(quote).join()).join("\r\n") + "\r\n";
}

/** Return a cell of CSV; a name that begins as a formula stays text.
 *  @param {string | number | undefined | null} value */
function quote(value) {
  if (typeof value === "number") return String(value);
  const text = String(value ?? "").replaceAll('"', '""');
  return /^[=+\-@\t\r]/.test(text) ? `"'${text}"` : `"${text}"`;
}
