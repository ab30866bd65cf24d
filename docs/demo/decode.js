// From pixels to the model's input, and from its outputs to what is drawn.
// Pure functions; tests/demo/decode.test.mjs runs them in Node.js.

/**
 * Average the pixels of a canvas to an image of the model's size.
 *
 * @param {Uint8ClampedArray} pixels RGBA, (side * factor)² pixels.
 * @param {number} side Side of the image.
 * @param {number} factor Pixels of the canvas per pixel of the image.
 * @returns {Float32Array} Three planes in the order blue, green, red, 0 to 255.
 */
export function toInput(pixels, side, factor) {
  const input = new Float32Array(3 * side * side);
  const width = side * factor;
  for (let y = 0; y < side; y++) for (let x = 0; x < side; x++)
    for (let channel = 0; channel < 3; channel++) {
      let sum = 0;
      for (let j = 0; j < factor; j++) for (let i = 0; i < factor; i++)
        sum += pixels[4 * ((y * factor + j) * width + x * factor + i) + channel];
      // Images that are read from files have whole numbers.
      input[(2 - channel) * side * side + y * side + x] = Math.round(sum / factor ** 2);
    }
  return input;
}

/**
 * Detections of the only image of a batch, by descending score.
 *
 * @param {Object} outputs Arrays and their shapes: boxes, scores, labels and,
 *   of models with masks, masks; each {data, dims}.
 * @param {number} threshold Lowest score.
 * @returns {Object[]} {label, score, box: [left, top, right, bottom], mask,
 *   maskSide}; labels and boxes as the model gives them.
 */
export function decode({ boxes, scores, labels, masks }, threshold) {
  const found = [];
  for (let i = 0; i < scores.dims[1]; i++) {
    const label = Number(labels.data[i]), score = scores.data[i];
    // Places that are not used have the label -1.
    if (label < 0 || score < threshold) continue;
    const item = { label, score, box: [...boxes.data.slice(4 * i, 4 * i + 4)] };
    if (masks) {
      item.maskSide = masks.dims[3];
      const area = masks.dims[2] * item.maskSide;
      item.mask = masks.data.slice(i * area, (i + 1) * area);
    }
    found.push(item);
  }
  return found.sort((a, b) => b.score - a.score);
}

/** Area that two boxes share, relative to that of both. */
function overlap(a, b) {
  const area = ([left, top, right, bottom]) => Math.max(0, right - left) * Math.max(0, bottom - top);
  const common = area([0, 1, 2, 3].map(i => (i < 2 ? Math.max : Math.min)(a[i], b[i])));
  return common / (area(a) + area(b) - common);
}

/**
 * The best of the detections that overlap by more than half.
 *
 * The model leaves out what overlaps within a class only.
 *
 * @param {Object[]} found Detections by descending score.
 * @returns {Object[]} Some of them.
 */
export function bestOfPlaces(found) {
  const best = [];
  for (const item of found)
    if (best.every(({ box }) => overlap(box, item.box) <= .5)) best.push(item);
  return best;
}

/**
 * Pixels of an image that lie in a mask, which spans its box.
 *
 * @param {Object} item A detection with a mask.
 * @param {number} side Side of the model's image.
 * @param {number} factor Pixels to return per pixel of that image.
 * @param {number} threshold Lowest probability of a mask.
 * @returns {Uint8Array} (side * factor)² numbers, 1 inside.
 */
export function pasteMask({ box, mask, maskSide }, side, factor, threshold) {
  const width = side * factor, inside = new Uint8Array(width * width);
  const [left, top, right, bottom] = box.map(value => value * factor);
  const clamp = value => Math.min(Math.max(value, 0), maskSide - 1);
  const at = (x, y) => mask[clamp(y) * maskSide + clamp(x)];
  const first = value => Math.max(0, Math.floor(value));
  const end = value => Math.min(width, Math.ceil(value));
  for (let y = first(top); y < end(bottom); y++) for (let x = first(left); x < end(right); x++) {
    // Between the centers of the mask's pixels, linear.
    const u = (x + .5 - left) / (right - left) * maskSide - .5;
    const v = (y + .5 - top) / (bottom - top) * maskSide - .5;
    const i = Math.floor(u), j = Math.floor(v), a = u - i, b = v - j;
    const value = (1 - b) * ((1 - a) * at(i, j) + a * at(i + 1, j)) +
      b * ((1 - a) * at(i, j + 1) + a * at(i + 1, j + 1));
    if (value >= threshold) inside[y * width + x] = 1;
  }
  return inside;
}

/** A bright color of a class, far from those of others: red, green, blue. */
export function classColor(label, classes) {
  return [0, 1, 2].map(channel =>
    Math.round(165 + 90 * Math.cos(2 * Math.PI * (label / classes - channel / 3))));
}

/** Side of a region in pixels; maps are padded to whole regions. */
function regionSide({ n_win, stride }, side) {
  return Math.ceil(Math.ceil(side / stride) / n_win) * stride;
}

/**
 * @param {Object} layer {n_win, stride}.
 * @param {number} region Index of a region, row by row.
 * @param {number} side Side of the image.
 * @returns {number[]} Its [left, top, right, bottom] within the image; without
 *   area if it lies in the padding.
 */
export function regionBox(layer, region, side) {
  const step = regionSide(layer, side), row = Math.floor(region / layer.n_win);
  const column = region % layer.n_win;
  return [column, row, column + 1, row + 1].map(value => Math.min(value * step, side));
}

/** Index of the region at a point, which is moved into the image. */
export function regionAt(layer, [x, y], side) {
  const step = regionSide(layer, side);
  const [column, row] = [x, y].map(
    value => Math.floor(Math.min(Math.max(value, 0), side - 1) / step));
  return row * layer.n_win + column;
}

/**
 * Regions that a region attends to, by descending affinity.
 *
 * @param {Object} outputs Outputs of the model, with those of its routing.
 * @param {Object} layer {stage, block, topk}.
 * @param {number} region Index of the region.
 * @returns {Object[]} {region, affinity}.
 */
export function routesOf(outputs, { stage, block, topk }, region) {
  const routing = outputs[`routing_${stage}_${block}`].data;
  const affinity = outputs[`affinity_${stage}_${block}`].data;
  return Array.from({ length: topk }, (_, rank) => ({
    region: Number(routing[region * topk + rank]),
    affinity: affinity[region * topk + rank],
  }));
}
