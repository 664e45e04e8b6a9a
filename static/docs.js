/*
 * Starts Swagger UI on /docs, without its online validator: no other host is used. Its
 * dark colours follow the system's. What it draws gets the names and levels that screen
 * readers need.
 */

const dark = matchMedia("(prefers-color-scheme: dark)");
const setColors = () =>
  document.documentElement.classList.toggle("dark-mode", dark.matches);
setColors();
dark.addEventListener("change", setColors);

SwaggerUIBundle({
  url: document.body.dataset.document,
  dom_id: "#docs",
  deepLinking: false, // its links would be inside of buttons
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
});

/** Name the fields that Swagger UI leaves without a name; let long code be scrolled. */
function addNames() {
  for (const field of document.querySelectorAll("select, textarea, input")) {
    const row = field.closest("[data-param-name]");
    field.ariaLabel ??= row?.dataset.paramName ?? field.className.replaceAll("-", " ");
    if (!field.ariaLabel) field.ariaLabel = "Choice";
  }
  for (const code of document.querySelectorAll("pre")) code.tabIndex = 0;
  for (const heading of document.querySelectorAll("h3, h4, h5")) {
    heading.ariaLevel = heading.localName[1] - 1; // there is a first level, no second
  }
}

new MutationObserver(addNames).observe(document.getElementById("docs"), {
  childList: true,
  subtree: true,
});
