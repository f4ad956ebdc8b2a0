/** The panel of settings: models, system prompt and sampling. */

const form = document.getElementById("settings");
const toggle = document.getElementById("toggle-settings");
const { first, second, compare, seed } = form.elements;
const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens"];
const wide = matchMedia("(min-width: 56rem)");
let models = [];

/** What the panel says now; `seed` is undefined for another one each time. */
export function read() {
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, form.elements[name].valueAsNumber]));
  return {
    ...numbers,
    seed: seed.value === "" ? undefined : seed.valueAsNumber,
    system: form.elements.system.value,
    first: first.value,
    second: second.value,
    compare: compare.disabled ? undefined : compare.checked, // no choice of the user's
  };
}

/** Whether every number is in its range; shows the first that is not. */
export function isValid() {
  if (form.checkValidity()) return true;
  open(true);
  return form.reportValidity();
}

/** The models to ask, one a column. */
export function chosen() {
  const names = compare.checked ? [first.value, second.value] : [first.value];
  return names.map((name) => models.find((model) => model.id === name));
}

/** Offers the server's models; the stored choice holds as far as they are still there. */
export function offer(found, stored) {
  const wanted = models.length ? read() : stored; // a key may be asked for in the middle
  models = found;
  const names = found.map((model) => model.id);
  for (const [place, select] of [first, second].entries()) {
    select.replaceChildren(...names.map((name) => new Option(name)));
    const name = wanted?.[select.name];
    select.value = names.includes(name) ? name : names[place] ?? names[0];
  }
  const canCompare = names.length > 1;
  compare.disabled = !canCompare;
  compare.checked = canCompare && (wanted?.compare ?? true);
  document.getElementById("one-model").hidden = canCompare;
  showSecond();
}

/** Puts back what `read` gave at an earlier visit, but for the models. */
export function restore(stored) {
  for (const name of [...NUMBERS, "system", "seed"]) {
    if (stored?.[name] !== undefined && stored[name] !== null) form.elements[name].value = stored[name];
  }
}

function showSecond() {
  document.getElementById("second-model").hidden = !compare.checked;
}

function open(isOpen) {
  form.hidden = !isOpen;
  toggle.setAttribute("aria-expanded", isOpen);
}

compare.addEventListener("change", showSecond);
form.addEventListener("submit", (event) => event.preventDefault());
toggle.addEventListener("click", () => open(form.hidden));
wide.addEventListener("change", () => open(wide.matches));
open(wide.matches);
