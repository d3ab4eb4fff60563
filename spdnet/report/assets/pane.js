// One picture of the current slice: image, saliency, masks, points. All panes share state, so they scroll together.

const POINT_RADIUS = 5;
const HOVER_PIXELS = 11;
const REFERENCE_DASH = [6, 5]; // drawn last, so that where both agree both are seen
const LEAST_HEIGHT = 300;
const MANY_LENDERS = 4; // from there on their tags are short

class Pane {
  // predictionIndex: null shows the image alone
  constructor(predictionIndex, name) {
    this.predictionIndex = predictionIndex;
    this.canvas = make("canvas", { tabindex: 0, role: "img" });
    this.name = make("div", { class: "name" }, name);
    this.score = make("div", { class: "score" });
    this.element = make("div", { class: "pane" }, this.canvas, this.name, this.score);
    this.name.hidden = !name;
    this.title = name || "slice";
    this.marks = [];
    this.drawing = 0;
    addPointerHandlers(this);
  }

  get prediction() {
    return this.predictionIndex === null ? null : state.payload.predictions[this.predictionIndex];
  }

  async draw() {
    const drawing = ++this.drawing;
    const planes = await this.planes();
    if (drawing !== this.drawing) return; // the slice has changed meanwhile
    this.drawn = planes;
    this.fit();
    const context = this.canvas.getContext("2d");
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.width, this.height);
    this.drawImage(context, planes);
    if (this.predictionIndex !== null) this.drawOverlays(context, planes);
    this.drawLetters(context);
    this.tell(planes);
  }

  async planes() {
    const { payload, slice } = state;
    const prediction = this.prediction;
    const wanted = { image: payload.image.get(slice) };
    if (prediction) {
      wanted.prediction = prediction.map.get(slice);
      if (payload.referenceMap) wanted.reference = payload.referenceMap.get(slice);
      if (prediction.saliencyMaps) wanted.saliency = Promise.all(prediction.saliencyMaps.map((m) => m.get(slice)));
    }
    const values = await Promise.all(Object.values(wanted));
    return { payload, slice, ...Object.fromEntries(Object.keys(wanted).map((key, i) => [key, values[i]])) };
  }

  // Size of the canvas, and the way from pixels of the slice to those of the canvas; pixels keep their shape.
  fit() {
    const { columns, rows, spacing_mm } = state.payload;
    const [, dy, dx] = spacing_mm;
    this.width = this.element.clientWidth;
    this.height = Math.round(Math.min((this.width * rows * dy) / (columns * dx), availableHeight()));
    this.ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.width, this.height].map((v) => Math.round(v * this.ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.canvas.style.height = `${this.height}px`;
    const perMm = Math.min(this.width / (columns * dx), this.height / (rows * dy)) * state.zoom;
    this.scale = [perMm * dx, perMm * dy];
    this.origin = [
      this.width / 2 - this.visible(0, columns) * this.scale[0],
      this.height / 2 - this.visible(1, rows) * this.scale[1],
    ];
  }

  // Centre of the view along an axis in pixels, kept so that no more than needed lies outside the slice.
  visible(axis, size) {
    const half = [this.width, this.height][axis] / 2 / this.scale[axis];
    return half * 2 >= size ? size / 2 : clamp(state.centre[axis] * size, half, size - half);
  }

  edgeToScreen(x, y) {
    return [this.origin[0] + x * this.scale[0], this.origin[1] + y * this.scale[1]];
  }

  pointToScreen(x, y) {
    return this.edgeToScreen(x + 0.5, y + 0.5);
  }

  screenToEdge(x, y) {
    return [(x - this.origin[0]) / this.scale[0], (y - this.origin[1]) / this.scale[1]];
  }

  drawImage(context, planes) {
    this.paste(context, paintGrey(planes.image, this.size, state.low, state.high), state.smooth);
  }

  get size() {
    return { width: state.payload.columns, height: state.payload.rows };
  }

  paste(context, picture, smooth) {
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "medium";
    const { width, height } = this.size;
    context.drawImage(picture, ...this.origin, width * this.scale[0], height * this.scale[1]);
  }

  drawOverlays(context, planes) {
    if (state.saliency && planes.saliency) this.drawSaliency(context, planes.saliency);
    this.drawMask(context, planes.prediction, state.prediction, PREDICTION_COLOUR, []);
    if (planes.reference) this.drawMask(context, planes.reference, state.reference, REFERENCE_COLOUR, REFERENCE_DASH);
    this.drawPoints(context);
  }

  drawSaliency(context, maps) {
    const chosen = state.classIndex < 0 ? maps : [maps[state.classIndex]];
    const highest = chosen[0].map((v, i) => Math.max(v, ...chosen.slice(1).map((m) => m[i])));
    const opacities = highest.map((v) => 2.55 * state.saliencyOpacity * v);
    this.paste(context, paintPlane(SALIENCY_RGB, opacities, this.size), state.smooth);
    const threshold = this.prediction.points.length ? 100 * this.prediction.points[0].threshold : 50;
    const { width, height } = this.size;
    context.strokeStyle = `rgb(${SALIENCY_RGB})`;
    context.lineWidth = 1.2;
    context.setLineDash([1.5, 2.5]);
    const loops = traceOutline(highest.map((v) => (v > threshold ? 1 : 0)), width, height);
    strokeLoops(context, loops, (x, y) => this.edgeToScreen(x, y));
    context.setLineDash([]);
  }

  drawMask(context, plane, mode, colour, dash) {
    if (mode === "off") return;
    if (mode === "fill") {
      const mask = maskOf(plane, shownClasses().flatMap((c) => c.indices));
      this.paste(context, paintPlane(rgbOf(colour), mask.map((v) => 255 * state.maskOpacity * v), this.size), false);
    }
    for (const { indices } of shownClasses()) {
      const loops = outlineOf(plane, indices, this.size);
      context.lineJoin = "round";
      context.setLineDash(dash);
      context.strokeStyle = "rgba(0, 0, 0, 0.6)";
      context.lineWidth = 3.4;
      strokeLoops(context, loops, (x, y) => this.edgeToScreen(x, y));
      context.strokeStyle = colour;
      context.lineWidth = 2;
      strokeLoops(context, loops, (x, y) => this.edgeToScreen(x, y));
    }
    context.setLineDash([]);
  }

  drawPoints(context) {
    this.marks = [];
    if (state.points.box) this.drawBoxes(context);
    const points = pointsInSlice(state.payload, this.prediction, state.slice, state.classIndex);
    this.lenders = points.filter((p) => p.kind === "borrowed").length;
    for (const point of points) {
      if (!state.points[point.kind]) continue;
      const [x, y] = this.pointToScreen(point.x, point.y);
      if (point.kind === "borrowed") this.drawLender(context, point, x, y);
      drawShape(context, point.kind, x, y, POINT_RADIUS, samePoint(point, state.emphasised));
      this.marks.push({ point, x, y });
    }
  }

  drawBoxes(context) {
    context.strokeStyle = POINT_KINDS.box.colour;
    context.lineWidth = 1.5;
    context.setLineDash([3, 3]);
    for (const [slice, top, left, bottom, right] of state.payload.boxes) {
      if (slice !== state.slice) continue;
      const [x0, y0] = this.pointToScreen(left, top);
      const [x1, y1] = this.pointToScreen(right, bottom);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    context.setLineDash([]);
  }

  // A line from a borrowed point to a tag with the slice that lends it; the tag leads there when clicked.
  drawLender(context, point, x, y) {
    const arrow = point.source < point.target ? "▲" : "▼";
    const text = this.lenders > MANY_LENDERS ? `${arrow} ${point.source}` : `${arrow} slice ${point.source}`;
    context.font = "11px system-ui, sans-serif";
    const width = context.measureText(text).width + 8;
    const tx = clamp(x + 16, 2, this.width - width - 2);
    const step = 17 * this.marks.filter((m) => m.lender).length;
    const ty = clamp(y - 26 - (step % 68), 2, this.height - 18);
    context.setLineDash([]);
    context.strokeStyle = "#fff";
    context.lineWidth = 1.2;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(tx + 4, ty + 14);
    context.stroke();
    context.fillStyle = "#004f7d";
    context.fillRect(tx, ty, width, 15);
    context.fillStyle = "#fff";
    context.fillText(text, tx + 4, ty + 11.5);
    this.marks.push({ point, x: tx + width / 2, y: ty + 7.5, lender: point.source, tag: [tx, ty, width, 15] });
  }

  drawLetters(context) {
    if (!state.payload.letters) return;
    const [left, right, top, bottom] = state.payload.letters;
    context.font = "600 13px system-ui, sans-serif";
    context.fillStyle = "#fff";
    context.shadowColor = "#000";
    context.shadowBlur = 3;
    context.textAlign = "center";
    const [x0, y0] = this.edgeToScreen(0, 0).map((v) => Math.max(0, v));
    const [x1, y1] = this.edgeToScreen(this.size.width, this.size.height);
    context.fillText(left, x0 + 11, this.height / 2 + 5);
    context.fillText(right, Math.min(this.width, x1) - 11, this.height / 2 + 5);
    context.fillText(top, this.width / 2, y0 + 16);
    context.fillText(bottom, this.width / 2, Math.min(this.height, y1) - 7);
    context.textAlign = "start";
    context.shadowBlur = 0;
  }

  // What is drawn, in words for screen readers, and where, for who wants to measure on the canvas.
  tell(planes) {
    const scores = this.prediction && this.prediction.dsc;
    const dsc = scores ? sliceDsc(scores, state.classIndex)[planes.slice] : null;
    this.score.textContent = dsc === null ? "" : `DSC ${decimals(dsc, 2)}`;
    this.score.hidden = dsc === null;
    const score = dsc === null ? "" : `, DSC ${decimals(dsc, 2)}`;
    this.canvas.setAttribute("aria-label", `${this.title}: ${planes.payload.case}, slice ${planes.slice}${score}`);
    this.canvas.dataset.slice = planes.slice;
    this.canvas.dataset.case = planes.payload.case;
    this.canvas.dataset.view = [...this.origin, ...this.scale].join(" ");
  }

  // What lies under the mouse: a point or the tag of its lender, or null.
  markAt(x, y) {
    const isOn = ([left, top, width, height]) => x >= left && y >= top && x <= left + width && y <= top + height;
    const tag = this.marks.find((m) => m.tag && isOn(m.tag));
    if (tag) return tag;
    const near = this.marks.filter((m) => !m.tag && Math.hypot(m.x - x, m.y - y) <= HOVER_PIXELS);
    return near.sort((a, b) => Math.hypot(a.x - x, a.y - y) - Math.hypot(b.x - x, b.y - y))[0] || null;
  }

  marksNear(mark) {
    return this.marks.filter((m) => !m.tag && Math.hypot(m.x - mark.x, m.y - mark.y) < 2);
  }
}

// Height of a pane for which slider and navigators stay on the screen.
function availableHeight() {
  const rows = Math.ceil(panes.length / 3);
  const rest = 205 + 90 * strips.length;
  return Math.max(LEAST_HEIGHT, (window.innerHeight - rest) / rows);
}

function samePoint(a, b) {
  return Boolean(a && b) && ["kind", "number", "classIndex", "source"].every((key) => a[key] === b[key]);
}
