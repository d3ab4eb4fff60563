// Making elements. Text only ever becomes text nodes, so names from files cannot become markup.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

function byId(id) {
  return document.getElementById(id);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

// make("p", {class: "muted", click: handler}, "text", otherElement)
function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function replaceChildren(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null));
}

function decimals(value, digits) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

// Intensities: whole numbers where they are large, else three digits.
function intensityText(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function mean(values) {
  const known = values.filter((v) => v !== null && v !== undefined);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}
