// The scene: strokes on a dark background, as in the model's training data
// (tools/dataset_converters/digits.py).

import { SHAPES } from './shapes.js';

/** Pixels of the canvas per pixel of the model's image. */
export const FACTOR = 3;
/** Width of strokes, relative to the side of the scene. */
const BRUSH = 0.045;
/** Height of a placed digit without the width of its strokes, relative to the side of the scene. */
const HEIGHT = 0.2;

/** Random numbers from 0 to 1 that a seed determines (mulberry32). */
function random(seed) {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

export class Scene {
  /**
   * @param {HTMLCanvasElement} canvas Where to draw.
   * @param {number} side Side of the model's image.
   */
  constructor(canvas, side) {
    this.side = side;
    canvas.width = canvas.height = side * FACTOR;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
    this.strokes = [];
    this.seed = 1;
    this.draw();
  }

  /** Begin a stroke at a point, in pixels of the model's image. */
  begin(point, color) {
    this.strokes.push({ color, points: [point] });
    this.draw();
  }

  /** Continue the last stroke. */
  extend(point) {
    this.strokes.at(-1).points.push(point);
    this.draw();
  }

  undo() {
    this.strokes.pop();
    this.draw();
  }

  clear() {
    this.strokes = [];
    this.draw();
  }

  changeBackground() {
    this.seed++;
    this.draw();
  }

  /** Replace the strokes by the digits of a text, at most nine, in rows. */
  place(text, color) {
    const next = random(this.seed);
    const digits = [...text].filter(digit => digit in SHAPES).slice(0, 9);
    this.strokes = digits.flatMap((digit, i) => {
      const middle = [i % 3, Math.floor(i / 3)].map(
        place => ((place + .5) / 3 + .04 * (next() - .5)) * this.side);
      const height = HEIGHT * this.side;
      return SHAPES[digit].map(points => ({
        color,
        points: points.map(point => point.map(
          (value, axis) => middle[axis] + (value - [.3, .5][axis]) * height)),
      }));
    });
    this.draw();
  }

  draw() {
    const { context, side } = this;
    context.setTransform(FACTOR, 0, 0, FACTOR, 0, 0);
    this.drawBackground();
    context.lineWidth = BRUSH * side;
    context.lineCap = context.lineJoin = 'round';
    for (const { color, points } of this.strokes) {
      context.strokeStyle = color;
      context.beginPath();
      // A stroke of a single point is a dot.
      points.concat([points[0]].slice(points.length - 1)).forEach(
        (point, i) => i ? context.lineTo(...point) : context.moveTo(...point));
      context.stroke();
    }
  }

  /** Four dark colors that blend into each other. */
  drawBackground() {
    const next = random(this.seed), { context, side } = this;
    const color = alpha => {
      const values = Array.from({ length: 3 }, () => Math.round(15 + 75 * next()));
      return `rgb(${values} / ${alpha})`.replaceAll(',', ' ');
    };
    context.fillStyle = color(1);
    context.fillRect(0, 0, side, side);
    for (const [x, y] of [[0, 0], [side, 0], [side / 2, side]]) {
      const blend = context.createRadialGradient(x, y, 0, x, y, side);
      const from = color(1);
      blend.addColorStop(0, from);
      blend.addColorStop(1, from.replace('/ 1', '/ 0'));
      context.fillStyle = blend;
      context.fillRect(0, 0, side, side);
    }
  }

  /** RGBA values of all pixels of the canvas. */
  get pixels() {
    const { width, height } = this.context.canvas;
    return this.context.getImageData(0, 0, width, height).data;
  }
}
