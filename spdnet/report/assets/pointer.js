// What the mouse, a pen or a finger does on a pane: slices, zoom, window, and telling what lies under it.

const DRAG_PER_SLICE = 12; // of a finger, pixels

function addPointerHandlers(pane) {
  const { canvas } = pane;
  let drag = null;
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return scrollSlices(event);
    event.preventDefault();
    return zoomBy(event.deltaY < 0 ? 1.25 : 0.8, shareAt(pane, event));
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    const mark = pane.markAt(event.offsetX, event.offsetY);
    if (mark && mark.lender !== undefined && event.button === 0) return setSlice(mark.lender);
    drag = { button: event.button, x: event.clientX, y: event.clientY };
    canvas.setPointerCapture(event.pointerId);
    return undefined;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (drag) followDrag(pane, drag, event);
    else point(pane, event);
  });
  canvas.addEventListener("pointerup", () => (drag = null));
  canvas.addEventListener("pointercancel", () => (drag = null));
  canvas.addEventListener("pointerleave", hideTooltip);
}

function shareAt(pane, event) {
  const [x, y] = pane.screenToEdge(event.offsetX, event.offsetY);
  return [x / pane.size.width, y / pane.size.height];
}

function followDrag(pane, drag, event) {
  const dx = event.clientX - drag.x;
  const dy = event.clientY - drag.y;
  Object.assign(drag, { x: event.clientX, y: event.clientY });
  if (drag.button === 2) {
    const level = (state.low + state.high) / 2 + dy * 0.5;
    const width = Math.max(1, state.high - state.low + dx * 0.5);
    Object.assign(state, { low: level - width / 2, high: level + width / 2 });
  } else if (state.zoom > 1) {
    const { width, height } = pane.size;
    state.centre = [
      clamp(state.centre[0] - dx / pane.scale[0] / width, 0, 1),
      clamp(state.centre[1] - dy / pane.scale[1] / height, 0, 1),
    ];
  } else if (event.pointerType === "touch") {
    drag.sum = (drag.sum || 0) + dy;
    if (Math.abs(drag.sum) > DRAG_PER_SLICE) {
      setSlice(state.slice - Math.sign(drag.sum));
      drag.sum = 0;
    }
  }
  changed();
}

function point(pane, event) {
  const mark = pane.markAt(event.offsetX, event.offsetY);
  pane.canvas.style.cursor = mark && mark.lender !== undefined ? "pointer" : "crosshair";
  if (mark) {
    const texts = mark.tag
      ? [`${describePoint(mark.point)}\nclick: go to slice ${mark.lender}`]
      : pane.marksNear(mark).map((m) => describePoint(m.point));
    showTooltip(texts.join("\n\n"), event.clientX, event.clientY);
  } else hideTooltip();
  showReadout(pane, event);
}

function showTooltip(text, x, y) {
  const tooltip = byId("tooltip");
  tooltip.textContent = text;
  tooltip.hidden = false;
  tooltip.style.left = `${Math.max(4, Math.min(x + 14, window.innerWidth - tooltip.offsetWidth - 6))}px`;
  tooltip.style.top = `${Math.max(4, Math.min(y + 14, window.innerHeight - tooltip.offsetHeight - 6))}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

// Place, intensity and labels under the mouse.
function showReadout(pane, event) {
  const [x, y] = pane.screenToEdge(event.offsetX, event.offsetY).map(Math.floor);
  const { width, height } = pane.size;
  if (!pane.drawn || x < 0 || y < 0 || x >= width || y >= height) return;
  const i = y * width + x;
  const parts = [`column ${x}, row ${y}`, `intensity ${intensityText(toIntensity(pane.drawn.image[i]))}`];
  if (pane.drawn.prediction) parts.push(`prediction: ${classNames(pane.drawn.prediction[i])}`);
  if (pane.drawn.reference) parts.push(`reference: ${classNames(pane.drawn.reference[i])}`);
  if (pane.drawn.saliency) parts.push(`saliency ${pane.drawn.saliency.map((m) => decimals(m[i] / 100, 2)).join(", ")}`);
  byId("readout").textContent = parts.join(" · ");
}

function classNames(index) {
  return overview.classes.filter((c) => c.indices.includes(index)).map((c) => c.name).join(", ") || "background";
}
