// What the viewer shows; whoever changes it calls changed(), which redraws once per frame.

const state = {
  caseIndex: -1,
  payload: null,
  slice: 0,
  classIndex: -1, // -1: all classes
  prediction: "contour", // "contour", "fill", "off"
  reference: "contour",
  saliency: false,
  maskOpacity: 0.45,
  saliencyOpacity: 0.6,
  points: Object.fromEntries(Object.entries(POINT_KINDS).map(([kind, { shown }]) => [kind, shown])),
  low: 0, // grey value shown black
  high: 255, // grey value shown white
  zoom: 1,
  centre: [0.5, 0.5], // of the view, as shares of columns and rows
  smooth: true,
  plain: false,
  emphasised: null, // point that its list entry or the mouse points at
};

let redraw = () => {};
let frameAsked = false;

function changed() {
  if (frameAsked) return;
  frameAsked = true;
  requestAnimationFrame(() => {
    frameAsked = false;
    redraw();
  });
}

function shownClasses() {
  return state.classIndex < 0 ? overview.classes : [overview.classes[state.classIndex]];
}

function toIntensity(grey) {
  const [low, high] = state.payload.grey.stored;
  return low + (grey / 255) * (high - low);
}

function toGrey(intensity) {
  const [low, high] = state.payload.grey.stored;
  return (255 * (intensity - low)) / (high - low);
}

function resetWindow() {
  const [low, high] = state.payload.grey.shown;
  state.low = toGrey(low);
  state.high = Math.max(toGrey(high), state.low + 1);
}

function setSlice(slice) {
  if (!state.payload) return;
  state.slice = clamp(Math.round(slice), 0, state.payload.slices - 1);
  state.emphasised = null;
  changed();
}

const WHEEL_STEP = 40; // pixels of wheel for a slice: one notch of a mouse, or a stretch of a touch pad
let wheelSum = 0;

function scrollSlices(event) {
  event.preventDefault();
  wheelSum += event.deltaY;
  if (Math.abs(wheelSum) < (event.deltaMode ? 1 : WHEEL_STEP)) return;
  setSlice(state.slice + Math.sign(wheelSum));
  wheelSum = 0;
}

function zoomBy(factor, at = state.centre) {
  const zoom = clamp(state.zoom * factor, 1, 40);
  const share = 1 - state.zoom / zoom;
  state.centre = state.centre.map((c, i) => clamp(c + (at[i] - c) * share, 0, 1));
  state.zoom = zoom;
  if (zoom === 1) state.centre = [0.5, 0.5];
  changed();
}

function zoomToTarget() {
  const { focus, columns, rows } = state.payload;
  if (!focus) return;
  const [top, bottom, left, right] = focus;
  state.zoom = clamp(Math.min(columns / (right - left), rows / (bottom - top)), 1, 40);
  state.centre = [(left + right) / 2 / columns, (top + bottom) / 2 / rows];
  changed();
}

function zoomToAll() {
  state.zoom = 1;
  state.centre = [0.5, 0.5];
  changed();
}
