// Slices out of their PNG or JPEG text, kept for a while once decoded.

const PLANES_KEPT = 48;

class PlaneReader {
  constructor(mime, texts, size) {
    this.mime = mime;
    this.texts = texts;
    this.size = size;
    this.kept = new Map();
  }

  // Promise of the Uint8Array of a slice, row by row.
  get(slice) {
    let plane = this.kept.get(slice);
    if (!plane) {
      plane = decodePlane(this.mime, this.texts[slice], this.size);
      this.kept.set(slice, plane);
      if (this.kept.size > PLANES_KEPT) this.kept.delete(this.kept.keys().next().value);
    }
    return plane;
  }
}

async function decodePlane(mime, text, size) {
  const plane = new Uint8Array(size.width * size.height);
  if (!text) return plane;
  const image = new Image();
  image.src = `data:${mime};base64,${text}`;
  await image.decode();
  const context = newCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, size.width, size.height).data;
  for (let i = 0; i < plane.length; i++) plane[i] = rgba[4 * i];
  return plane;
}

function newCanvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// A canvas of the slice's own size in one colour; opacities: of each pixel, 0 to 255.
function paintPlane([red, green, blue], opacities, size) {
  const canvas = newCanvas(size.width, size.height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(size.width, size.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const colour = (blue << 16) | (green << 8) | red;
  for (let i = 0; i < pixels.length; i++) if (opacities[i]) pixels[i] = (opacities[i] << 24) | colour;
  context.putImageData(picture, 0, 0);
  return canvas;
}

// Grey values through a window; low becomes black and high white.
function paintGrey(plane, size, low, high) {
  const canvas = newCanvas(size.width, size.height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(size.width, size.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const table = new Uint32Array(256);
  for (let v = 0; v < 256; v++) {
    const grey = Math.round(255 * clamp((v - low) / Math.max(high - low, 1e-6), 0, 1));
    table[v] = 0xff000000 + grey * 0x010101;
  }
  for (let i = 0; i < plane.length; i++) pixels[i] = table[plane[i]];
  context.putImageData(picture, 0, 0);
  return canvas;
}
