/*
 * One answer for developers: the request as curl and as Python, the answer as JSON.
 */

const FORMATS = { curl: toCurl, Python: toPython, JSON: toJson };

const form = document.getElementById("choose");
const { needsKey } = document.getElementById("key").dataset;

/** @param {Element} group of buttons @param {object} answer of `page.js` */
export function fillCopyButtons(group, answer) {
  for (const [name, format] of Object.entries(FORMATS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", async () => {
      const isCopied = await copy(format(answer));
      group.querySelector("[role=status]").textContent = isCopied
        ? `${name} copied.`
        : "The browser forbids copying.";
    });
    group.querySelector("[role=status]").before(button);
  }
}

/** Return the answer to one picture as the service gives it, without explanation.
 *  @param {object} answer */
export function toDocument({ prediction, model }) {
  const { explain, ...outcome } = prediction.error ?? prediction;
  return prediction.error ? outcome : { ...outcome, model };
}

/** @param {object} answer */
function toJson(answer) {
  return JSON.stringify(toDocument(answer), null, 2);
}

/** @param {object} answer */
function toCurl({ name }) {
  const key = needsKey ? " -H 'X-API-Key: KEY'" : "";
  const file = name.replaceAll("'", "'\\''");
  return `curl${key} --data-binary '@${file}' '${address()}'`;
}

/** @param {object} answer */
function toPython({ name }) {
  const key = needsKey ? ', headers={"X-API-Key": "KEY"}' : "";
  return [
    "import requests",
    "",
    `with open(${JSON.stringify(name)}, "rb") as picture:`,
    `    answer = requests.post(${JSON.stringify(address())}, data=picture${key})`,
    "print(answer.json())",
  ].join("\n");
}

/** Return the address of /predict, without options. */
function address() {
  return form.action.split("?")[0];
}

/** Copy a text, also where there is no clipboard since the page came without TLS.
 *  @param {string} text @returns {Promise<boolean>} */
async function copy(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const area = document.createElement("textarea");
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return isCopied;
}
