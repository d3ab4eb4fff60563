// Start, the two pages, the keyboard, colours, and the place in the address.

const THEMES = ["auto", "light", "dark"];

function showPage(name) {
  for (const page of ["overview", "cases"]) {
    byId(`${page}-page`).hidden = page !== name;
    byId(`to-${page}`).setAttribute("aria-pressed", page === name);
  }
}

function setUpPages() {
  byId("to-overview").addEventListener("click", () => {
    showPage("overview");
    setAddress("");
  });
  byId("to-cases").addEventListener("click", () => openCase(Math.max(0, state.caseIndex)));
}

const KEYS = {
  ArrowUp: () => setSlice(state.slice - 1),
  ArrowLeft: () => setSlice(state.slice - 1),
  ArrowDown: () => setSlice(state.slice + 1),
  ArrowRight: () => setSlice(state.slice + 1),
  PageUp: () => setSlice(state.slice - 10),
  PageDown: () => setSlice(state.slice + 10),
  Home: () => setSlice(0),
  End: () => setSlice(state.payload.slices - 1),
  w: goToWorst,
  n: () => openCase(state.caseIndex + 1),
  p: () => openCase(state.caseIndex - 1),
  1: () => change("prediction", state.prediction === "off" ? "contour" : "off"),
  2: () => change("reference", state.reference === "off" ? "contour" : "off"),
  3: () => change("saliency", !state.saliency),
  4: togglePoints,
  f: toggleFills,
  "+": () => zoomBy(1.5),
  "=": () => zoomBy(1.5),
  "-": () => zoomBy(1 / 1.5),
  0: zoomToAll,
  z: zoomToTarget,
  r: () => { resetWindow(); changed(); },
};

function togglePoints() {
  const any = Object.values(state.points).some(Boolean);
  for (const [kind, { shown }] of Object.entries(POINT_KINDS)) state.points[kind] = !any && shown;
  changed();
}

function toggleFills() {
  const mode = state.prediction === "fill" || state.reference === "fill" ? "contour" : "fill";
  for (const what of ["prediction", "reference"]) if (state[what] !== "off") state[what] = mode;
  changed();
}

function onKey(event) {
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || !state.payload || byId("cases-page").hidden) return;
  if (event.ctrlKey || event.metaKey || event.altKey || needsKey(event.target, event.key)) return;
  event.preventDefault();
  action();
}

// Whether a focused control uses the key itself.
function needsKey(element, key) {
  if (element.matches("input[type=search], select")) return true;
  const moves = key.startsWith("Arrow") || key.startsWith("Page") || key === "Home" || key === "End";
  return moves && element.matches("input[type=range]:not(#slice)");
}

function setUpTheme() {
  let theme = "auto";
  try {
    theme = localStorage.getItem("spd-report-theme") || "auto";
  } catch { /* some browsers keep nothing for files */ }
  applyTheme(THEMES.includes(theme) ? theme : "auto");
  byId("theme").addEventListener("click", () => {
    applyTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("spd-report-theme", theme);
  } catch { /* as above */ }
  changed();
}

const ADDRESS_DELAY_MS = 250; // browsers refuse many changes in a short time
let addressTimer = 0;

// #case=NAME&slice=12: a place can be sent to a colleague.
function rememberPlace() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    if (!byId("cases-page").hidden) setAddress(`#case=${encodeURIComponent(state.payload.case)}&slice=${state.slice}`);
  }, ADDRESS_DELAY_MS);
}

function setAddress(hash) {
  try {
    history.replaceState(null, "", hash || "#");
  } catch { /* not allowed for files by some browsers */ }
}

function goToAddress() {
  const place = new URLSearchParams(location.hash.slice(1));
  const index = overview.cases.findIndex((entry) => entry.case === place.get("case"));
  if (index >= 0) openCase(index, place.has("slice") ? Number(place.get("slice")) || 0 : null);
}

setUpTheme();
showOverview(openCase);
setUpViewer();
setUpPages();
document.addEventListener("keydown", onKey);
goToAddress();
