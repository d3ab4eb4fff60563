// The navigator: a bar per slice with its DSC, or the area of the prediction where there is no reference.

const STRIP_HEIGHT = 62;
const MARGIN = 4;
const DOTS = 9; // height of the line of points below the bars

class Strip {
  constructor(predictionIndex, name) {
    this.predictionIndex = predictionIndex;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.caption = make("span", {});
    const caption = make("div", { class: "caption" }, make("span", {}, name), this.caption);
    this.element = make("div", { class: "strip" }, caption, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.follow(event));
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.follow(event));
    this.canvas.addEventListener("wheel", scrollSlices, { passive: false });
  }

  get prediction() {
    return state.payload.predictions[this.predictionIndex];
  }

  follow(event) {
    setSlice(Math.floor(((event.offsetX - MARGIN) / (this.canvas.clientWidth - 2 * MARGIN)) * state.payload.slices));
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(STRIP_HEIGHT * ratio) });
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const step = (width - 2 * MARGIN) / state.payload.slices;
    this.drawBars(context, step);
    this.drawPoints(context, step);
    this.drawCurrent(context, step);
  }

  drawBars(context, step) {
    const values = this.values();
    const floor = STRIP_HEIGHT - DOTS - MARGIN;
    values.forEach((value, slice) => {
      const left = MARGIN + slice * step;
      context.fillStyle = cssColour(value === null ? "line" : this.prediction.dsc ? gradeOf(value) : "good");
      const height = value === null ? 1.5 : Math.max(2.5, value * (floor - MARGIN));
      context.fillRect(left, floor - height, Math.max(1, step - (step > 3 ? 1 : 0)), height);
    });
  }

  // DSC of each slice, null where nothing is; without reference the predicted area as a share of the largest.
  values() {
    if (this.prediction.dsc) {
      this.caption.textContent = "DSC per slice; low bars fail, flat ones hold nothing";
      return sliceDsc(this.prediction.dsc, state.classIndex);
    }
    this.caption.textContent = "slices that hold a prediction";
    return this.prediction.labels.map((text) => (text ? 0.6 : null));
  }

  drawPoints(context, step) {
    const y = STRIP_HEIGHT - DOTS / 2 - 2;
    const trusted = this.prediction.points.filter((p) => p.kind === "kept" || p.kind === "borrowed");
    const kept = new Set(trusted.map((p) => p.target));
    const given = new Set((state.payload.given || []).map(([s]) => Math.floor(s + 0.5)));
    const radius = clamp(step / 2.6, 1, 2.6);
    for (let slice = 0; slice < state.payload.slices; slice++) {
      const x = MARGIN + (slice + 0.5) * step;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      if (kept.has(slice)) {
        context.fillStyle = POINT_KINDS.kept.colour;
        context.fill();
      } else if (given.has(slice)) {
        context.strokeStyle = cssColour("muted");
        context.lineWidth = 1;
        context.stroke();
      }
    }
  }

  // The current slice, and arcs to the slices that lend it points.
  drawCurrent(context, step) {
    const middle = (slice) => MARGIN + (slice + 0.5) * step;
    const x = middle(state.slice);
    const width = Math.max(step, 4);
    context.strokeStyle = cssColour("text");
    context.lineWidth = 1.5;
    context.strokeRect(x - width / 2 - 0.5, 1, width + 1, STRIP_HEIGHT - 2);
    if (!state.points.borrowed) return;
    context.strokeStyle = cssColour("text");
    const points = pointsInSlice(state.payload, this.prediction, state.slice, state.classIndex);
    for (const slice of new Set(points.filter((p) => p.kind === "borrowed").map((p) => p.source))) {
      const y = STRIP_HEIGHT - DOTS;
      context.beginPath();
      context.moveTo(middle(slice), y);
      context.quadraticCurveTo((x + middle(slice)) / 2, y - 26, x, y);
      context.stroke();
    }
  }
}
