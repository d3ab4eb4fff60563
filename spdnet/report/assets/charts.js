// Charts as SVG, made here: lines, a strip of dots, and a histogram.

const CHART = { width: 420, height: 220, left: 44, right: 12, top: 12, bottom: 34 };

// lines: [{label, points: [[x, y], ...], index}]; x are whole numbers from 0.
function lineChart({ title, xLabel, lines, yRange, logarithmic }) {
  const points = lines.flatMap((l) => l.points).filter(([, y]) => y !== null);
  if (!points.length) return null;
  const transform = logarithmic ? Math.log10 : (v) => v;
  const ys = points.map(([, y]) => transform(y)).filter(Number.isFinite);
  const [low, high] = yRange || padded(Math.min(...ys), Math.max(...ys));
  const xHigh = Math.max(1, ...points.map(([x]) => x));
  const x = (v) => CHART.left + (v / xHigh) * (CHART.width - CHART.left - CHART.right);
  const y = (v) => scaleY(transform(v), low, high);
  const chart = emptyChart(title, xLabel, low, high, logarithmic ? (v) => (10 ** v).toExponential(0) : undefined);
  for (const tick of wholeTicks(xHigh)) chart.append(tickLabel(x(tick), tick));
  for (const line of lines) chart.append(polyline(line, x, y));
  return make("figure", { style: "margin:0" }, make("h3", {}, title), chart, lineLegend(lines));
}

function polyline(line, x, y) {
  const style = series(line.index);
  const known = line.points.filter(([, v]) => v !== null);
  const d = known.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
  const path = makeSvg("path", {
    d, fill: "none", stroke: style.colour, "stroke-width": 2, "stroke-dasharray": style.dash,
  });
  if (known.length !== 1) return path;
  return makeSvg("circle", { cx: x(known[0][0]), cy: y(known[0][1]), r: 3, fill: style.colour });
}

function lineLegend(lines) {
  return make("div", { class: "legend" }, lines.map((line) => {
    const { colour, dash } = series(line.index);
    const sample = makeSvg("path", { d: "M0 5H26", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash });
    return make("span", {}, makeSvg("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, sample), line.label);
  }));
}

function emptyChart(title, xLabel, low, high, words) {
  const chart = makeSvg("svg", {
    class: "chart", viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img", "aria-label": title,
  });
  const write = words || ((v) => decimals(v, high - low < 0.05 ? 3 : 2));
  for (let i = 0; i <= 4; i++) {
    const value = low + ((high - low) * i) / 4;
    const at = scaleY(value, low, high);
    chart.append(makeSvg("line", { class: "grid", x1: CHART.left, x2: CHART.width - CHART.right, y1: at, y2: at }));
    chart.append(makeSvg("text", { x: CHART.left - 6, y: at + 4, "text-anchor": "end" }, write(value)));
  }
  chart.append(makeSvg("text", { x: (CHART.width + CHART.left) / 2, y: CHART.height - 4, "text-anchor": "middle" }, xLabel));
  return chart;
}

function scaleY(value, low, high) {
  return CHART.height - CHART.bottom - ((value - low) / (high - low)) * (CHART.height - CHART.bottom - CHART.top);
}

function tickLabel(x, text) {
  return makeSvg("text", { x, y: CHART.height - CHART.bottom + 15, "text-anchor": "middle" }, text);
}

function wholeTicks(high) {
  const step = Math.max(1, Math.ceil(high / 6));
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step);
}

function padded(low, high) {
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.1;
  return [low - margin, high + margin];
}

// groups: [{label, dots: [{value, label, open}]}]; one row of dots per group, lower values to the left.
function dotChart({ title, xLabel, groups }) {
  const rowHeight = 54;
  const height = groups.length * rowHeight + CHART.bottom;
  const low = lowerEnd(groups.flatMap((g) => g.dots.map((d) => d.value)));
  const x = (v) => CHART.left + ((v - low) / (1 - low)) * (CHART.width - CHART.left - CHART.right);
  const chart = makeSvg("svg", { class: "chart", viewBox: `0 0 ${CHART.width} ${height}`, role: "img", "aria-label": title });
  for (let i = 0; i <= 5; i++) {
    const value = low + ((1 - low) * i) / 5;
    chart.append(makeSvg("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: height - CHART.bottom }));
    const label = { x: x(value), y: height - CHART.bottom + 14, "text-anchor": "middle" };
    chart.append(makeSvg("text", label, decimals(value, 2)));
  }
  chart.append(makeSvg("text", { x: (CHART.width + CHART.left) / 2, y: height - 4, "text-anchor": "middle" }, xLabel));
  groups.forEach((group, row) => {
    const middle = row * rowHeight + rowHeight / 2 + 6;
    chart.append(makeSvg("text", { x: CHART.left, y: middle - 20 }, group.label));
    chart.append(...dots(group.dots, x, middle, series(row).colour, 1 - low), medianMark(group.dots, x, middle));
  });
  return make("figure", { style: "margin:0" }, make("h3", {}, title), chart);
}

// Where the axis begins: 0, or a half above which all values lie.
function lowerEnd(values) {
  const least = Math.min(...values);
  return least >= 0.75 ? 0.75 : least >= 0.5 ? 0.5 : 0;
}

function dots(values, x, middle, colour, span) {
  const columns = new Map();
  return values.map(({ value, label, open }) => {
    const column = Math.round((value * 60) / span);
    const n = columns.get(column) || 0;
    columns.set(column, n + 1);
    const offset = (n % 2 ? 1 : -1) * Math.ceil(n / 2) * 6;
    const dot = makeSvg("circle", {
      class: "case", cx: x(value), cy: middle + clamp(offset, -14, 14), r: 4, fill: colour, "fill-opacity": 0.65,
      click: open,
    });
    dot.append(makeSvg("title", {}, label));
    return dot;
  });
}

function medianMark(values, x, middle) {
  const sorted = values.map((d) => d.value).sort((a, b) => a - b);
  if (!sorted.length) return "";
  const half = Math.floor(sorted.length / 2);
  const median = sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  const d = `M${x(median)} ${middle - 14}V${middle + 14}`;
  const mark = makeSvg("path", { d, stroke: "currentColor", "stroke-width": 2 });
  mark.append(makeSvg("title", {}, `median ${decimals(median, 3)}`));
  return mark;
}

// groups: [{label, values}] of numbers from 0 to 1; bars of the groups side by side in ten bins.
function histogram({ title, xLabel, groups }) {
  const bins = groups.map((g) => binned(g.values, 10));
  const shares = bins.map((counts, i) => counts.map((c) => c / Math.max(1, groups[i].values.length)));
  const high = Math.max(0.1, ...shares.flat());
  const chart = emptyChart(title, xLabel, 0, high, (v) => `${Math.round(100 * v)} %`);
  const full = CHART.width - CHART.left - CHART.right;
  shares.forEach((row, g) => row.forEach((share, i) => {
    const width = (full / 10 / groups.length) * 0.86;
    const left = CHART.left + (i * full) / 10 + g * (full / 10 / groups.length) + 1;
    const top = scaleY(share, 0, high);
    const bar = makeSvg("rect", { x: left, y: top, width, height: scaleY(0, 0, high) - top, fill: series(g).colour });
    bar.append(makeSvg("title", {}, `${groups[g].label}: ${bins[g][i]} slices from ${i / 10} to ${(i + 1) / 10}`));
    chart.append(bar);
  }));
  for (let i = 0; i <= 10; i += 2) chart.append(tickLabel(CHART.left + (i * full) / 10, decimals(i / 10, 1)));
  const legend = groups.length > 1 ? lineLegend(groups.map((g, index) => ({ label: g.label, index }))) : null;
  return make("figure", { style: "margin:0" }, make("h3", {}, title), chart, legend);
}

function binned(values, n) {
  const counts = new Array(n).fill(0);
  for (const value of values) counts[Math.min(n - 1, Math.floor(value * n))]++;
  return counts;
}

// A small picture of the DSC along the slices of a case; values may be null.
function sparkline(values) {
  if (!values.length) return "–";
  const viewBox = `0 0 ${values.length} 20`;
  const chart = makeSvg("svg", { class: "spark", viewBox, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const grade of ["poor", "fair", "good"]) {
    const d = values
      .map((v, i) => (v !== null && gradeOf(v) === grade ? `M${i} 20h0.85v${-Math.max(1.5, 20 * v)}h-0.85z` : ""))
      .join("");
    chart.append(makeSvg("path", { d, style: `fill:var(--${grade})` }));
  }
  return chart;
}
