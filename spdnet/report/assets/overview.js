// The overview: what was trained and why, scores, curves, distributions, and what distillation did to the prompts.

const METRICS = [
  { key: "dsc", label: "DSC per slice", digits: 3 },
  { key: "volume_dice", label: "Volume Dice", digits: 3 },
  { key: "iou", label: "IoU per slice", digits: 3 },
  { key: "hd95_mm", label: "HD95 mm", digits: 1 },
  { key: "asd_mm", label: "ASD mm", digits: 2 },
];

function showOverview(openCase) {
  const cards = [
    summaryCard(), ...scoreCards(openCase), distributionCard(openCase), promptCard(), curveCard(), plansCard(),
  ];
  replaceChildren(byId("overview-page"), cards.filter(Boolean));
  const lines = [
    `spdnet ${overview.version}, written ${overview.written}.`,
    overview.command && `Command: ${overview.command}`,
    "Research software, not a medical device.",
  ];
  replaceChildren(byId("footer"), lines.filter(Boolean).map((line) => make("div", {}, line)));
}

function card(title, size, ...content) {
  return make("section", { class: `card ${size}` }, make("h2", {}, title), ...content);
}

function tile(value, label) {
  return make("div", { class: "tile" }, make("div", { class: "value" }, value), make("div", { class: "label" }, label));
}

function summaryCard() {
  const training = overview.training;
  const tiles = [tile(overview.cases.length, overview.cases.length === 1 ? "case" : "cases")];
  if (training && training.train_cases !== null) tiles.push(tile(training.train_cases, "training cases"));
  overview.estimates.forEach((estimates, i) => {
    if (!estimates) return;
    const name = overview.predictions.length > 1 ? ` ${overview.predictions[i]}` : "";
    tiles.push(tile(withInterval(estimates.dsc[0], 3), `mean DSC per slice${name} (95 % interval)`));
    tiles.push(tile(withInterval(estimates.volume_dice[0], 3), `mean volume Dice${name} (95 % interval)`));
  });
  const classes = overview.classes.map((c) => c.name).join(", ");
  const words = [`Classes: ${classes}.`];
  const plans = ["Slices", "Image size", "Backbone"].map(planned).filter(Boolean);
  if (plans.length) words.push(`Network: ${plans.join(", ")}; reasons below.`);
  const device = training && training.device ? `, trained on ${training.gpu || training.device}` : "";
  if (training) words.unshift(`${training.trainer}, fold ${training.fold}${device}.`);
  else words.unshift(`Predictions: ${overview.predictions.join(", ")}.`);
  if (!overview.estimates[0]) words.push("Without reference there are no scores.");
  return card("Summary", "", make("div", { class: "tiles" }, tiles), make("p", { class: "muted" }, words.join(" ")));
}

function planned(topic) {
  const row = overview.plans.find((r) => r.topic === topic);
  return row && row.choice;
}

function withInterval(estimate, digits) {
  const [text, low, high] = [estimate.mean, estimate.low, estimate.high].map((v) => decimals(v, digits));
  return estimate.low === null ? text : make("span", {}, text, make("small", { class: "muted" }, ` ${low}–${high}`));
}

function scoreCards(openCase) {
  if (!overview.estimates[0]) return [caseListCard(openCase)];
  const place = make("div", { class: "scroll" });
  const classes = overview.classes.map((c, i) => make("option", { value: i }, c.name));
  const mean = make("option", { value: -1 }, "mean of classes");
  const choice = make("select", { id: "score-class", change: update }, mean, classes);
  const filter = make("input", {
    type: "search", id: "score-filter", placeholder: "filter by name", "aria-label": "Filter cases by name", input: update,
  });
  function update() {
    replaceChildren(place, scoreTable(Number(choice.value), filter.value.toLowerCase(), openCase));
  }
  update();
  const classChoice = overview.classes.length > 1 ? make("label", {}, "Scores of ", choice) : null;
  const note = "Worst first. A case opens at its worst slice. DSC: 1 where a slice is empty in both, 0 where in one.";
  const filters = make("div", { class: "filters" }, classChoice, filter);
  return [card("Scores", "", filters, make("p", { class: "muted" }, note), place)];
}

function scoreTable(classIndex, filter, openCase) {
  const rows = overview.cases.flatMap((entry, index) =>
    entry.predictions.map((p, i) => scoreRow(entry, index, p, i, classIndex)));
  const shown = rows.filter((row) => row.case.toLowerCase().includes(filter));
  const columns = [
    { key: "case", label: "Case", value: (r) => r.case, cell: (r) => caseButton(r, openCase) },
    { key: "prediction", label: "Prediction", value: (r) => r.prediction, cell: (r) => r.prediction },
    ...METRICS.map(metricColumn),
    { key: "points", label: "Points kept", number: true, value: (r) => r.kept, cell: keptPoints },
    { key: "spark", label: "Slices", value: (r) => r.worstDsc, cell: (r) => sparkline(r.sliceDsc) },
  ]
    .filter((c) => c.key !== "prediction" || overview.predictions.length > 1)
    .filter((c) => c.key !== "points" || rows.some((r) => r.kept !== null));
  return sortableTable(columns, shown, "dsc", "Scores of all cases");
}

function metricColumn({ key, label, digits }) {
  return { key, label, number: true, value: (row) => row[key], cell: (row) => decimals(row[key], digits) };
}

function keptPoints(row) {
  return row.kept === null ? "–" : `${row.kept} of ${row.raw}`;
}

function scoreRow(entry, index, prediction, predictionIndex, classIndex) {
  const row = { case: entry.case, index, prediction: overview.predictions[predictionIndex] };
  const classes = prediction.classes || []; // none without a reference
  for (const { key } of METRICS) row[key] = classes.length ? classValue(classes.map((c) => c[key]), classIndex) : null;
  row.sliceDsc = classes.length ? sliceDsc(prediction.slice_dsc, classIndex) : [];
  const known = row.sliceDsc.filter((v) => v !== null);
  row.worstDsc = known.length ? Math.min(...known) : null;
  row.worst = known.length ? row.sliceDsc.indexOf(row.worstDsc) : null;
  row.raw = prediction.prompts ? prediction.prompts.points.given : null;
  row.kept = prediction.prompts ? prediction.prompts.points.kept : null;
  return row;
}

function classValue(values, classIndex) {
  return classIndex < 0 ? mean(values) : values[classIndex];
}

// DSC of each slice: of one class, or the mean of the classes that are there; null where there is none.
function sliceDsc(perClass, classIndex) {
  return perClass[0].map((_, slice) => classValue(perClass.map((values) => values[slice]), classIndex));
}

function caseButton(row, openCase) {
  return make("button", { type: "button", class: "link", click: () => openCase(row.index, row.worst) }, row.case);
}

function caseListCard(openCase) {
  const rows = overview.cases.map((entry, index) => ({ case: entry.case, index, worst: null }));
  const items = rows.map((row) => make("li", {}, caseButton(row, openCase)));
  return card("Cases", "", make("ul", {}, items));
}

function distributionCard(openCase) {
  if (!overview.estimates[0]) return null;
  const groups = overview.predictions.map((label, i) => {
    const rows = overview.cases.map((entry, index) => scoreRow(entry, index, entry.predictions[i], i, -1));
    return { label, rows };
  });
  const caseDots = groups.map(({ label, rows }) => ({
    label,
    dots: rows.filter((r) => r.dsc !== null).map((r) => ({
      value: r.dsc, label: `${r.case}: ${decimals(r.dsc, 3)}`, open: () => openCase(r.index, r.worst),
    })),
  }));
  const known = (rows) => rows.flatMap((r) => r.sliceDsc).filter((v) => v !== null);
  const slices = groups.map(({ label, rows }) => ({ label, values: known(rows) }));
  return card(
    "Distributions", overview.prompts.some(Boolean) ? "two-thirds" : "",
    make("div", { class: "charts" },
      dotChart({ title: "DSC of cases (line: median)", xLabel: "DSC per slice, mean of the case", groups: caseDots }),
      histogram({ title: "DSC of slices", xLabel: "DSC of slices with target or prediction", groups: slices })),
  );
}

function promptCard() {
  if (!overview.prompts.some(Boolean)) return null;
  const blocks = overview.prompts.map((counts, i) => {
    if (!counts) return null;
    const name = overview.prompts.filter(Boolean).length > 1 ? make("h3", {}, overview.predictions[i]) : null;
    return make("div", {}, name, ...promptMeters(counts));
  });
  return card("Prompts before and after distillation", "third", ...blocks);
}

function promptMeters({ raw, distilled }) {
  const precision = (c) => [c.points_inside, c.points];
  const recall = (c) => [c.target_slices_hit, c.target_slices];
  return [
    make("h3", {}, "Precision: points that lie in the target"),
    meter("as given", precision(raw), "before"), meter("distilled", precision(distilled), "after"),
    make("h3", {}, "Recall: target slices with a point in the target"),
    meter("as given", recall(raw), "before"), meter("distilled", recall(distilled), "after"),
  ];
}

function meter(label, [part, whole], kind) {
  const share = whole ? part / whole : 0;
  const text = whole ? `${Math.round(100 * share)} % (${part} of ${whole})` : "none";
  return make("div", { class: "meter" },
    make("span", {}, label),
    make("span", { class: `bar ${kind}`, "aria-hidden": "true" }, make("i", { style: `width:${100 * share}%` })),
    make("span", {}, text));
}

function curveCard() {
  if (!overview.curves.length) return null;
  const charts = ["Stage 1, saliency", "Stage 2, prompts"].flatMap((name, i) => {
    const records = overview.curves.filter((r) => r.stage === i + 1);
    return records.length ? stageCharts(records, name) : [];
  });
  return card("Training", "", make("div", { class: "charts" }, charts.filter(Boolean)), curveDetails());
}

function stageCharts(records, name) {
  const points = (value) => records.map((r, i) => [i, value(r)]);
  const losses = [
    { label: "training loss", index: 0, points: points((r) => r.train_loss) },
    { label: "validation loss", index: 1, points: points((r) => r.val_loss) },
  ].filter((line) => line.points.some(([, v]) => v !== null));
  const dice = [
    ...overview.classes.map((c, k) => ({ label: c.name, index: k + 2, points: points((r) => r.dice[k] ?? null) })),
    { label: "smoothed mean", index: 0, points: points((r) => r.smoothed_dice) },
  ];
  return [
    lineChart({ title: `${name}: loss`, xLabel: "epoch", lines: losses }),
    lineChart({ title: `${name}: Dice while training`, xLabel: "epoch", lines: dice, yRange: [0, 1] }),
  ];
}

function curveDetails() {
  const head = ["Stage", "Epoch", "Training loss", "Validation loss", "Smoothed Dice", "Learning rate", "Seconds"];
  const rows = overview.curves.map((r) => [
    r.stage, r.epoch, decimals(r.train_loss, 4), decimals(r.val_loss, 4), decimals(r.smoothed_dice, 4),
    r.learning_rate.toExponential(2), decimals(r.seconds, 1),
  ]);
  const table = make("table", {},
    make("thead", {}, make("tr", {}, head.map((h) => make("th", { class: "number" }, h)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map((v) => make("td", { class: "number" }, v))))));
  return make("details", {}, make("summary", {}, "Epochs as numbers"), make("div", { class: "scroll" }, table));
}

function plansCard() {
  if (!overview.plans.length) return null;
  const rows = overview.plans.map(({ topic, choice, why }) =>
    make("tr", {}, make("td", {}, topic), make("td", {}, choice), make("td", { class: "muted" }, why)));
  const head = make("thead", {}, make("tr", {}, ["What", "Choice", "Why"].map((h) => make("th", { scope: "col" }, h))));
  return card("Plans", "", make("div", { class: "scroll" }, make("table", { class: "plans" }, head, make("tbody", {}, rows))));
}
