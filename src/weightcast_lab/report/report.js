{
const data = JSON.parse(document.getElementById("charts").textContent);
const NARROW = 620; // pixels: below, names beside the lines would leave the lines no room
const dark = matchMedia("(prefers-color-scheme: dark)");
const views = {};

function chosen(form) {
  if (!form) return null;
  const settings = {};
  for (const select of form.querySelectorAll("select[name=setting]"))
    if (select.value) settings[select.dataset.setting] = select.value;
  const curves = [...form.querySelectorAll("input[name=curve]:checked")].map((box) => box.value);
  return { settings, curves: new Set(curves), metric: form.elements.metric?.value };
}

function fits(group, { settings, curves }) {
  return curves.has(group.curve) && Object.entries(settings).every(
    ([name, value]) => (group.settings[name] ?? value) === value);
}

// What sets a line apart from the others of its curve.
function detail(group, { settings }) {
  const apart = Object.keys(group.words).filter((name) => !(name in settings));
  return [group.curve, ...apart.map((name) => group.words[name])].join(", ");
}

function filtered(spec, groups, shown, choice, narrow) {
  const copy = structuredClone(spec);
  if (!groups.length) return copy;
  const times = {};
  for (const group of shown) times[groups[group].curve] = (times[groups[group].curve] ?? 0) + 1;
  copy.datasets.points = copy.datasets.points.filter((value) => shown.has(value.group));
  for (const value of copy.datasets.points)
    if (times[value.curve] > 1) value.label = detail(groups[value.group], choice);
  const left = { names: !narrow, levels: false, curves: false };
  for (const value of copy.datasets.points) left[value.reference ? "levels" : "curves"] = true;
  copy.layer = copy.layer.filter((layer) => left[layer.name]);
  copy.height = narrow ? 320 : Math.max(copy.height, 16 * shown.size + 60);
  return copy;
}

async function draw(name) {
  const { specs, groups } = data[name];
  const element = document.getElementById(`${name}-chart`);
  const section = element.closest("section");
  const choice = chosen(section.querySelector("form[data-controls]"));
  const metric = choice?.metric ?? Object.keys(specs)[0];
  const shown = new Set(choice ? [...groups.keys()].filter((i) => fits(groups[i], choice)) : []);
  const empty = choice !== null && !specs[metric].datasets.points.some((value) => shown.has(value.group));
  if (choice) show(section, groups, shown, choice, metric, empty);
  element.hidden = empty;
  views[name]?.finalize();
  views[name] = null;
  if (empty) return;
  const spec = filtered(specs[metric], groups, shown, choice, element.clientWidth < NARROW);
  views[name] = await vegaEmbed(element, spec, {
    renderer: "svg", actions: false, tooltip: { theme: dark.matches ? "dark" : "light" },
  });
}

function show(section, groups, shown, choice, metric, empty) {
  for (const row of section.querySelectorAll("tr[data-group]"))
    row.hidden = !shown.has(Number(row.dataset.group));
  for (const box of section.querySelectorAll(".box[data-metric]")) {
    box.hidden = box.dataset.metric !== metric;
    hideColumns(box, choice.settings);
  }
  for (const part of section.querySelectorAll("[data-curve]"))
    part.hidden = !choice.curves.has(part.dataset.curve);
  section.querySelector(".status").textContent = empty
    ? "Nothing was measured in this setting, or no curve is chosen."
    : `${shown.size} of ${groups.length} lines shown.`;
}

// A setting that is the same in all lines needs no column, nor does a share that none was measured at.
function hideColumns(box, settings) {
  const rows = [...box.querySelectorAll("tbody tr:not([hidden])")];
  [...box.querySelectorAll("thead th")].forEach((heading, i) => {
    const hidden = i > 0 && (heading.dataset.setting in settings
      || rows.every((row) => !row.cells[i].textContent));
    for (const row of box.querySelectorAll("tr")) row.cells[i].hidden = hidden;
  });
}

// One drawing at a time for each chart; window.drawn is settled when all have been made.
const waiting = {};
function redraw(name) {
  waiting[name] = (waiting[name] ?? Promise.resolve()).then(() => draw(name));
  window.drawn = Promise.all(Object.values(waiting));
}

for (const form of document.querySelectorAll("form[data-controls]")) {
  const name = form.dataset.controls;
  form.addEventListener("change", () => redraw(name));
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("button[data-check]"))
    button.addEventListener("click", () => {
      for (const box of form.querySelectorAll("input[name=curve]")) box.checked = Boolean(button.dataset.check);
      redraw(name);
    });
}

const narrow = matchMedia(`(max-width: ${NARROW + 32}px)`);
const redrawAll = () => Object.keys(data).forEach(redraw);
narrow.addEventListener("change", redrawAll);
dark.addEventListener("change", redrawAll);
redrawAll();
}
