// What docs/demo/decode.js computes, in Node.js: `node --test tests/demo/`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  bestOfPlaces, decode, pasteMask, regionAt, regionBox, routesOf, toInput,
} from '../../docs/demo/decode.js';

const tensor = (dims, data) => ({ dims, data });

test('pixels are averaged to planes of blue, green and red', () => {
  // A scene of 2 x 2 pixels on a canvas of 4 x 4: the first is half red.
  const pixels = new Uint8ClampedArray(4 * 16);
  for (const at of [0, 1]) pixels.set([200, 40, 8, 255], 4 * at);
  pixels.set([1, 2, 3, 255], 4 * 15);
  const input = toInput(pixels, 2, 2);
  assert.deepEqual([...input], [4, 0, 0, 1, 20, 0, 0, 1, 100, 0, 0, 0]);
});

test('detections below the threshold and unused places are left out', () => {
  const outputs = {
    boxes: tensor([1, 3, 4], Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0)),
    scores: tensor([1, 3], Float32Array.of(.25, .75, 1)),
    labels: tensor([1, 3], BigInt64Array.of(9n, 3n, -1n)),
    masks: tensor([1, 3, 1, 2], Float32Array.of(1, 2, 3, 4, 5, 6)),
  };
  const all = decode(outputs, 0);
  assert.deepEqual(all.map(item => item.label), [3, 9]);
  assert.deepEqual(all[1].box, [1, 2, 3, 4]);
  assert.deepEqual([...all[0].mask], [3, 4]);
  assert.deepEqual(decode(outputs, .5).map(item => item.score), [.75]);
});

test('of detections at a place the best stays', () => {
  const found = [[0, 0, 10, 10], [1, 0, 11, 10], [5, 0, 15, 10], [20, 20, 21, 30]]
    .map((box, label) => ({ box, label }));
  // They overlap the first by 9/11, by 1/3, and not at all.
  assert.deepEqual(bestOfPlaces(found).map(item => item.label), [0, 2, 3]);
});

test('a mask fills its box, and is cut at the border', () => {
  // The left half is inside; the box reaches over the right and lower border.
  const item = { box: [2, 2, 6, 6], mask: Float32Array.of(1, 0, 1, 0), maskSide: 2 };
  const inside = pasteMask(item, 5, 1, .5);
  const rows = [0, 1, 2, 3, 4].map(y => [...inside.slice(5 * y, 5 * y + 5)].join(''));
  assert.deepEqual(rows, ['00000', '00000', '00110', '00110', '00110']);
});

test('regions cover the image, and those in the padding nothing', () => {
  const layer = { n_win: 5, stride: 16 };
  assert.deepEqual(regionBox(layer, 7, 160), [64, 32, 96, 64]);
  assert.equal(regionAt(layer, [64, 63.9], 160), 7);
  assert.equal(regionAt(layer, [-1, 1000], 160), 20);
  // Seven tokens a side become ten: two regions begin behind the image.
  assert.deepEqual(regionBox(layer, 24, 112), [112, 112, 112, 112]);
  assert.deepEqual(regionBox(layer, 18, 112), [96, 96, 112, 112]);
});

test('routes are those of the region and the layer', () => {
  const outputs = {
    routing_2_1: tensor([1, 4, 2], BigInt64Array.of(0n, 1n, 3n, 2n, 0n, 3n, 1n, 2n)),
    affinity_2_1: tensor([1, 4, 2], Float32Array.of(9, 8, 7, 6, 5, 4, 3, 2)),
  };
  assert.deepEqual(routesOf(outputs, { stage: 2, block: 1, topk: 2 }, 1), [
    { region: 3, affinity: 7 }, { region: 2, affinity: 6 }]);
});
