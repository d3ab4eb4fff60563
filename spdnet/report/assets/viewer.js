// The case viewer: panes, navigator, controls, and the list of points; draws what state says.

const WIDE_PIXELS = 1100; // where the image alone fits beside one prediction

let panes = [];
let strips = [];

function setUpViewer() {
  redraw = drawViewer;
  state.plain = overview.predictions.length === 1 && window.innerWidth > WIDE_PIXELS;
  byId("show-plain").checked = state.plain;
  const select = byId("case");
  overview.cases.forEach((entry, i) => select.append(make("option", { value: i }, entry.case)));
  select.addEventListener("change", () => openCase(Number(select.value)));
  setUpChoices();
  setUpPointToggles();
  setUpButtons();
  byId("slice").addEventListener("input", () => setSlice(Number(byId("slice").value)));
  for (const id of ["level", "width"]) byId(id).addEventListener("input", readWindow);
  new ResizeObserver(() => state.payload && changed()).observe(byId("panes"));
}

function setUpChoices() {
  const choice = byId("class");
  if (overview.classes.length > 1) choice.append(make("option", { value: -1 }, "all"));
  overview.classes.forEach((c, i) => choice.append(make("option", { value: overview.classes.length > 1 ? i : -1 }, c.name)));
  choice.addEventListener("change", () => change("classIndex", Number(choice.value)));
  for (const what of ["prediction", "reference"]) {
    byId(`show-${what}`).addEventListener("change", (event) => change(what, event.target.value));
  }
  byId("show-saliency").addEventListener("change", (event) => change("saliency", event.target.checked));
  byId("mask-opacity").addEventListener("input", (event) => change("maskOpacity", event.target.value / 100));
  byId("saliency-opacity").addEventListener("input", (event) => change("saliencyOpacity", event.target.value / 100));
  byId("smooth").addEventListener("change", (event) => change("smooth", event.target.checked));
  byId("show-plain").addEventListener("change", (event) => {
    state.plain = event.target.checked;
    buildPanes();
    changed();
  });
}

function change(key, value) {
  state[key] = value;
  changed();
}

function setUpPointToggles() {
  for (const [kind, { label }] of Object.entries(POINT_KINDS)) {
    const box = make("input", { type: "checkbox", id: `show-${kind}`, change: (event) => {
      state.points[kind] = event.target.checked;
      changed();
    } });
    box.checked = state.points[kind];
    const text = make("label", { for: `show-${kind}` }, label);
    byId("point-toggles").append(make("div", { class: "option point", id: `option-${kind}` }, pointIcon(kind), text, box));
  }
}

function setUpButtons() {
  const actions = {
    "previous-case": () => openCase(state.caseIndex - 1),
    "next-case": () => openCase(state.caseIndex + 1),
    "previous-slice": () => setSlice(state.slice - 1),
    "next-slice": () => setSlice(state.slice + 1),
    "reset-window": () => { resetWindow(); changed(); },
    "zoom-in": () => zoomBy(1.5),
    "zoom-out": () => zoomBy(1 / 1.5),
    "zoom-target": zoomToTarget,
    "zoom-all": zoomToAll,
    "worst-slice": goToWorst,
  };
  for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
}

// Open a case, at a slice or at its middle one that holds something.
async function openCase(index, slice = null) {
  if (index < 0 || index >= overview.cases.length) return;
  showPage("cases");
  if (index !== state.caseIndex) {
    byId("case-facts").textContent = "loading …";
    try {
      const payload = await loadCase(index);
      takeCase(index, payload);
    } catch (error) {
      showMessage(error.message);
      byId("case-facts").textContent = "";
      return;
    }
    if (slice === null) slice = middleSlice();
  }
  if (slice !== null) state.slice = clamp(slice, 0, state.payload.slices - 1);
  changed();
}

function takeCase(index, payload) {
  showMessage("");
  Object.assign(state, { caseIndex: index, payload, emphasised: null, zoom: 1, centre: [0.5, 0.5] });
  resetWindow();
  byId("case").value = index;
  byId("previous-case").disabled = index === 0;
  byId("next-case").disabled = index === overview.cases.length - 1;
  byId("slice").max = payload.slices - 1;
  const size = `${payload.slices} ${payload.plane ? `${payload.plane} ` : ""}slices of ${payload.columns} × ${payload.rows}`;
  const spacing = payload.spacing_mm.map((v) => Number(v.toPrecision(3))).reverse().join(" × ");
  const quality = payload.grey.quality ? `, shown as JPEG of quality ${payload.grey.quality}` : "";
  byId("case-facts").textContent = `${size}, ${spacing} mm${quality}`;
  showAvailable(payload);
  buildPanes();
  window.scrollTo(0, 0);
}

// Hide what this case does not have.
function showAvailable(payload) {
  const predictions = payload.predictions;
  const kinds = new Set(predictions.flatMap((p) => p.points.map((point) => point.kind)));
  if (payload.given && payload.given.length) kinds.add("raw");
  if (payload.boxes.length) kinds.add("box");
  for (const kind of Object.keys(POINT_KINDS)) byId(`option-${kind}`).hidden = !kinds.has(kind);
  byId("point-options").hidden = !kinds.size;
  byId("point-list").closest("fieldset").hidden = !kinds.size;
  byId("class-choice").hidden = overview.classes.length < 2;
  byId("reference-option").hidden = !payload.reference;
  const hasSaliency = predictions.some((p) => p.saliency);
  for (const id of ["saliency-option", "saliency-opacity-option"]) byId(id).hidden = !hasSaliency;
  byId("zoom-target").disabled = !payload.focus;
  byId("worst-slice").disabled = !predictions[0].dsc;
}

function buildPanes() {
  const names = overview.predictions;
  panes = names.map((name, i) => new Pane(i, names.length > 1 ? name : ""));
  if (state.plain) panes.unshift(new Pane(null, "image"));
  strips = names.map((name, i) => new Strip(i, names.length > 1 ? name : ""));
  replaceChildren(byId("panes"), panes.map((p) => p.element));
  byId("panes").style.setProperty("--columns", panes.length <= 3 ? panes.length : Math.ceil(panes.length / 2));
  byId("panes").style.setProperty("--narrow-columns", panes.length > 1 ? 2 : 1);
  replaceChildren(byId("strips"), strips.map((s) => s.element));
}

function drawViewer() {
  if (!state.payload || byId("cases-page").hidden) return;
  panes.forEach((pane) => pane.draw().catch((error) => showMessage(`This slice cannot be shown: ${error.message}`)));
  strips.forEach((strip) => strip.draw());
  showControls();
  listPoints();
  prefetch();
  rememberPlace();
}

function prefetch() {
  const { payload, slice } = state;
  for (const near of [slice + 1, slice - 1, slice + 2]) {
    if (near < 0 || near >= payload.slices) continue;
    payload.image.get(near);
    for (const p of payload.predictions) p.map.get(near);
  }
}

function showControls() {
  const { payload, slice } = state;
  const dsc = payload.predictions[0].dsc ? sliceDsc(payload.predictions[0].dsc, state.classIndex)[slice] : null;
  byId("slice").value = slice;
  const score = dsc === null ? "" : `, DSC ${decimals(dsc, 2)}`;
  byId("slice").setAttribute("aria-valuetext", `slice ${slice} of 0 to ${payload.slices - 1}${score}`);
  byId("slice-number").textContent = `slice ${slice} / ${payload.slices - 1}`;
  byId("class").value = state.classIndex;
  for (const what of ["prediction", "reference"]) byId(`show-${what}`).value = state[what];
  byId("show-saliency").checked = state.saliency;
  byId("level").value = (state.low + state.high) / 2;
  byId("width").value = state.high - state.low;
  byId("window-values").textContent = [state.low, state.high].map((v) => intensityText(toIntensity(v))).join(" to ");
  for (const kind of Object.keys(POINT_KINDS)) byId(`show-${kind}`).checked = state.points[kind];
}

function readWindow() {
  const level = Number(byId("level").value);
  const width = Number(byId("width").value);
  Object.assign(state, { low: level - width / 2, high: level + width / 2 });
  changed();
}

function listPoints() {
  const list = byId("point-list");
  const anyJudged = state.payload.predictions.some((p) => p.points.length);
  const items = state.payload.predictions.flatMap((prediction, i) =>
    pointsInSlice(state.payload, prediction, state.slice, state.classIndex)
      .filter((p) => (p.kind === "raw" ? i === 0 && !anyJudged : state.points[p.kind]))
      .map((p) => pointItem(p, i)));
  const key = JSON.stringify([state.caseIndex, state.slice, state.classIndex, state.points]);
  if (list.dataset.key === key) return; // keep the focus
  list.dataset.key = key;
  replaceChildren(list, items.length ? items : make("li", { class: "muted", style: "display:block" }, "none"));
}

function pointItem(point, predictionIndex) {
  const emphasise = (value) => () => change("emphasised", value);
  const isOwned = overview.predictions.length > 1 && point.kind !== "raw";
  const owner = isOwned ? ` (${overview.predictions[predictionIndex]})` : "";
  const label = describePoint(point).replaceAll("\n", ", ") + owner;
  const text = make("button", {
    type: "button", class: "point",
    focus: emphasise(point), blur: emphasise(null), mouseenter: emphasise(point), mouseleave: emphasise(null),
    "data-kind": point.kind, "data-x": point.x, "data-y": point.y, "aria-label": label, title: label,
  }, briefly(point) + owner);
  const jump = point.source !== point.target
    ? make("button", { type: "button", class: "jump", click: () => setSlice(point.source) }, `slice ${point.source}`)
    : null;
  return make("li", {}, pointIcon(point.kind), text, jump);
}

// The slice with the lowest DSC; if it is shown already, the next one.
function goToWorst() {
  const dsc = state.payload.predictions[0].dsc;
  if (!dsc) return;
  const values = sliceDsc(dsc, state.classIndex);
  const order = values.map((_, i) => i).filter((i) => values[i] !== null).sort((a, b) => values[a] - values[b]);
  if (order.length) setSlice(order[(order.indexOf(state.slice) + 1) % order.length]);
}

function middleSlice() {
  const { payload } = state;
  const texts = payload.reference || payload.predictions[0].labels;
  const filled = texts.map((t, i) => (t ? i : -1)).filter((i) => i >= 0);
  return filled.length ? filled[Math.floor(filled.length / 2)] : Math.floor(payload.slices / 2);
}
