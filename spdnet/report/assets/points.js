// Points and what became of them: their kinds, how each is drawn, and what is said of it.

// kind: shape, colour, and its words for the legend
const POINT_KINDS = {
  raw: { label: "as given", short: "as given", colour: "#F0E442", shape: "ring", shown: true },
  kept: { label: "kept", short: "kept", colour: "#009E73", shape: "disc", shown: true },
  borrowed: { label: "kept, lent by a neighbouring slice", short: "lent", colour: "#0072B2", shape: "diamond", shown: true },
  rejected: { label: "rejected in its own slice", short: "rejected", colour: "#D55E00", shape: "cross", shown: true },
  random: { label: "trusted by itself, but the points of this volume look random", short: "random", colour: "#CC79A7", shape: "cross", shown: true },
  declined: { label: "could be lent, but not trusted here", short: "not trusted here", colour: "#CC79A7", shape: "triangle", shown: false },
  surplus: { label: "left out: too many", short: "left out", colour: "#999999", shape: "square", shown: true },
  box: { label: "coarse boxes", short: "box", colour: "#F0E442", shape: "box", shown: true },
};
const KIND_OF_FATE = {
  KEPT_LOCAL: "kept",
  KEPT_CONTEXT: "borrowed",
  REJECTED_OWN: "rejected",
  OUTSIDE: "rejected",
  REJECTED_RANDOM: "random",
  REJECTED_HERE: "declined",
  OVER_LIMIT: "surplus",
};
const DRAWING_ORDER = ["box", "raw", "declined", "rejected", "random", "surplus", "borrowed", "kept"];

function namedPoint([number, classIndex, source, target, y, x, own, saliency, threshold, fate]) {
  let kind = KIND_OF_FATE[fate];
  if (fate === "REJECTED_HERE" && source === target) kind = "rejected";
  return { number, classIndex, source, target, y, x, own, saliency, threshold, fate, kind };
}

// Points to draw in a slice: those given there, and those judged for it; in the order of drawing.
function pointsInSlice(payload, prediction, slice, classIndex) {
  const given = (payload.given || [])
    .map(([s, y, x], i) => ({ kind: "raw", number: i + 1, source: Math.floor(s + 0.5), y, x }))
    .filter((p) => p.source === slice)
    .map((p) => ({ ...p, target: slice }));
  const judged = (prediction ? prediction.points : []).filter(
    (p) => p.target === slice && (classIndex < 0 || p.classIndex === classIndex),
  );
  const rank = (p) => DRAWING_ORDER.indexOf(p.kind);
  return [...given, ...judged].sort((a, b) => rank(a) - rank(b));
}

function describePoint(point) {
  if (point.kind === "raw") return `Point as given, slice ${point.source}`;
  const name = overview.classes.length > 1 ? ` for ${overview.classes[point.classIndex].name}` : "";
  const lines = [`Point ${point.number}${name}: ${POINT_KINDS[point.kind].label}`];
  lines.push(`saliency here ${decimals(point.saliency, 2)}, threshold ${decimals(point.threshold, 2)}`);
  if (point.source !== point.target) {
    lines.push(`from slice ${point.source}, saliency there ${decimals(point.own, 2)}`);
  }
  return lines.join("\n");
}

// The same for a list that shows the kind beside it.
function briefly(point) {
  if (point.kind === "raw") return `point ${point.number}`;
  const name = overview.classes.length > 1 ? `${overview.classes[point.classIndex].name} ` : "";
  return `${name}${point.number}: ${POINT_KINDS[point.kind].short}, saliency ${decimals(point.saliency, 2)}`;
}

// Path of a shape around (x, y); every shape differs, so that colour is not needed.
function shapePath(shape, x, y, r) {
  const path = new Path2D();
  const line = (...corners) => {
    corners.forEach(([dx, dy], i) => (i ? path.lineTo(x + dx * r, y + dy * r) : path.moveTo(x + dx * r, y + dy * r)));
  };
  if (shape === "ring" || shape === "disc") path.arc(x, y, shape === "ring" ? r * 1.45 : r * 0.8, 0, 2 * Math.PI);
  if (shape === "diamond") line([0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0], [0, -1.2]);
  if (shape === "square") line([-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8], [-0.8, -0.8]);
  if (shape === "triangle") line([-1, 0.8], [0, -1], [1, 0.8], [-1, 0.8]);
  if (shape === "cross") {
    line([-0.9, -0.9], [0.9, 0.9]);
    line([-0.9, 0.9], [0.9, -0.9]);
  }
  if (shape === "box") line([-1.2, -0.8], [1.2, -0.8], [1.2, 0.8], [-1.2, 0.8], [-1.2, -0.8]);
  return path;
}

function drawShape(context, kind, x, y, r, emphasised) {
  const { shape, colour } = POINT_KINDS[kind];
  const path = shapePath(shape, x, y, emphasised ? r * 1.5 : r);
  const filled = shape === "disc" || shape === "diamond";
  context.setLineDash([]);
  context.strokeStyle = emphasised ? "#fff" : "rgba(0, 0, 0, 0.85)";
  context.lineWidth = 4;
  context.stroke(path);
  if (filled) {
    context.fillStyle = colour;
    context.fill(path);
    context.strokeStyle = "#fff";
    context.lineWidth = 1.2;
  } else {
    context.strokeStyle = colour;
    context.lineWidth = 2;
  }
  context.stroke(path);
}

// The same shape as an icon for legends.
function pointIcon(kind) {
  const canvas = newCanvas(40, 40);
  canvas.style.width = canvas.style.height = "20px";
  canvas.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  drawShape(context, kind, 10, 10, 5, false);
  return canvas;
}
