// Outlines of masks along the edges of their pixels, as closed loops.

const outlinesOfPlanes = new WeakMap();

// 1 where a plane has one of the values.
function maskOf(plane, values) {
  const isIn = new Uint8Array(256);
  for (const value of values) isIn[value] = 1;
  return plane.map((v) => isIn[v]);
}

// The outline of some values of a plane, kept as long as the plane is.
function outlineOf(plane, values, { width, height }) {
  if (!outlinesOfPlanes.has(plane)) outlinesOfPlanes.set(plane, new Map());
  const kept = outlinesOfPlanes.get(plane);
  const key = values.join();
  if (!kept.has(key)) kept.set(key, traceOutline(maskOf(plane, values), width, height));
  return kept.get(key);
}

// Loops [[x, y], ...] in pixel edges (0 to width, 0 to height) around the pixels that are not 0.
function traceOutline(mask, width, height) {
  const next = outlineEdges(mask, width, height);
  const loops = [];
  for (const start of next.keys()) {
    while (next.has(start)) loops.push(followLoop(next, start, width + 1));
  }
  return loops;
}

// Directed edges around the mask, it lying to their right: start vertex -> list of end vertices.
function outlineEdges(mask, width, height) {
  const next = new Map();
  const stride = width + 1;
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x];
  const add = (from, to) => {
    if (next.has(from)) next.get(from).push(to);
    else next.set(from, [to]);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      const corner = y * stride + x;
      if (!inside(x, y - 1)) add(corner, corner + 1);
      if (!inside(x + 1, y)) add(corner + 1, corner + 1 + stride);
      if (!inside(x, y + 1)) add(corner + 1 + stride, corner + stride);
      if (!inside(x - 1, y)) add(corner + stride, corner);
    }
  }
  return next;
}

function followLoop(next, start, stride) {
  const loop = [];
  let vertex = start;
  let step = 0;
  do {
    const ends = next.get(vertex);
    const end = ends.pop();
    if (!ends.length) next.delete(vertex);
    if (end - vertex !== step) loop.push([vertex % stride, Math.floor(vertex / stride)]);
    step = end - vertex;
    vertex = end;
  } while (vertex !== start);
  return loop;
}

// Draw loops with toScreen(x, y) for pixel edges.
function strokeLoops(context, loops, toScreen) {
  context.beginPath();
  for (const loop of loops) {
    loop.forEach(([x, y], i) => {
      const [sx, sy] = toScreen(x, y);
      if (i) context.lineTo(sx, sy);
      else context.moveTo(sx, sy);
    });
    context.closePath();
  }
  context.stroke();
}
