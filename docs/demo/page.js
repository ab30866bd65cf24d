// The page: draws, runs the model, and shows what it finds.

import { bestOfPlaces, classColor, decode, pasteMask, regionAt, regionBox, routesOf, toInput } from './decode.js';
import { FACTOR, Scene } from './scene.js';

/** Cells of the grid that shows how large digits should be. */
const CELLS = 4;
/** Milliseconds without drawing before the model runs. */
const PAUSE = 150;

const byId = id => document.getElementById(id);
const stage = byId('stage'), marks = byId('marks'), status = byId('status');
const masks = byId('masks').getContext('2d');
const percent = value => `${Math.round(100 * value)} %`;

let model, scene, outputs, found = [], selected = -1, point = null;
let timer, running = Promise.resolve(), changes = 0;

function fail(text) {
  byId('error').textContent = text;
  byId('error').hidden = false;
  status.textContent = '';
}

// Running the model

/** Note that what is found will not be of the scene that is seen. */
function change() {
  clearTimeout(timer);
  changes++;
  stage.dataset.state = 'waiting';
}

/** Run the model when nothing has been drawn for a while. */
function schedule() {
  change();
  // Runs follow each other: a session takes one input at a time.
  timer = setTimeout(() => { running = running.then(detect).catch(error => fail(
    `The model cannot be run: ${error.message}`)); }, PAUSE);
}

async function detect() {
  const start = performance.now(), seen = changes;
  outputs = await model.run(toInput(scene.pixels, model.side, FACTOR));
  stage.dataset.milliseconds = Math.round(performance.now() - start);
  selected = -1;
  point = null;
  showFound();
  if (seen === changes) stage.dataset.state = 'ready';
}

function layer() {
  return model.routing[byId('layer').selectedIndex];
}

// Showing

function add(parent, name, attributes, text = '') {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

function addBox([left, top, right, bottom], attributes) {
  return add(marks, 'rect', { x: left, y: top, width: right - left, height: bottom - top, ...attributes });
}

const colorOf = label => `rgb(${classColor(label, model.classes.length)})`;

/** List and draw the detections above the threshold. */
function showFound() {
  const threshold = byId('threshold').valueAsNumber;
  document.querySelector('output').value = percent(threshold);
  if (!outputs) return;
  found = decode(outputs, threshold);
  if (byId('onlyBest').checked) found = bestOfPlaces(found);
  const names = found.map(item => model.classes[item.label]);
  status.textContent = scene.strokes.length === 0 && !found.length ? 'Draw a digit.'
    : `${found.length} found${found.length ? `: ${names.join(', ')}` : ''}`;
  byId('found').replaceChildren(...found.map((item, i) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = `${names[i]}: ${percent(item.score)}`;
    button.style.borderColor = colorOf(item.label);
    button.addEventListener('click', () => select(selected === i ? -1 : i));
    const entry = document.createElement('li');
    entry.dataset.label = names[i];
    entry.dataset.score = item.score;
    entry.dataset.box = item.box;
    entry.append(button);
    return entry;
  }));
  select(selected < found.length ? selected : -1, point);
  showMasks();
}

function showMasks() {
  const { width } = masks.canvas;
  const image = masks.createImageData(width, width);
  if (byId('showMasks').checked) for (const item of found.filter(one => one.mask)) {
    const color = classColor(item.label, model.classes.length);
    const inside = pasteMask(item, model.side, FACTOR, model.mask_threshold);
    inside.forEach((value, i) => {
      if (value) image.data.set([...color, 130], 4 * i);
    });
  }
  masks.putImageData(image, 0, 0);
}

/** Draw boxes and routes over the scene. */
function showMarks() {
  const { side } = model;
  marks.replaceChildren();
  for (let i = 1; i < CELLS; i++) {
    const at = i * side / CELLS;
    add(marks, 'path', { class: 'grid', d: `M${at} 0V${side}M0 ${at}H${side}` });
  }
  byId('routes').textContent = '';
  if (point && outputs) showRoutes(side);
  if (byId('showBoxes').checked) found.forEach(({ box, label, score }, i) => {
    addBox(box, { class: i === selected ? 'box selected' : 'box', stroke: colorOf(label), 'data-found': i });
    add(marks, 'text', { class: 'label', x: Math.max(1, box[0]), y: Math.max(7, box[1] - 2) },
      `${model.classes[label]} ${percent(score)}`);
  });
}

function showRoutes(side) {
  const chosen = layer(), region = regionAt(chosen, point, side);
  const routes = routesOf(outputs, chosen, region);
  const high = routes[0].affinity, low = routes.at(-1).affinity;
  routes.forEach(({ region: target, affinity }, rank) => {
    const share = high > low ? (affinity - low) / (high - low) : 1;
    addBox(regionBox(chosen, target, side), {
      class: 'routed', 'fill-opacity': .1 + .4 * share,
      'data-region': target, 'data-rank': rank });
  });
  const box = regionBox(chosen, region, side);
  addBox(box, { class: 'halo' });
  addBox(box, { class: 'query', 'data-query': region });
  const place = index =>
    `row ${Math.floor(index / chosen.n_win) + 1}, column ${index % chosen.n_win + 1}`;
  byId('routes').textContent = `The region in ${place(region)} attends to ${chosen.topk} of ` +
    `${chosen.n_win ** 2} regions, first to that in ${place(routes[0].region)}.`;
}

/** Select a detection and its middle, or a point of the scene, or nothing. */
function select(index, at = null) {
  selected = index;
  point = at;
  if (index >= 0) {
    const [left, top, right, bottom] = found[index].box;
    point = model.routing.length ? [(left + right) / 2, (top + bottom) / 2] : null;
  }
  byId('found').querySelectorAll('button').forEach(
    (button, i) => button.setAttribute('aria-pressed', i === selected));
  showMarks();
}

// Mouse, touch and keys

const looks = () => stage.classList.contains('look');

function pointOf(event) {
  const frame = stage.getBoundingClientRect();
  return [
    (event.clientX - frame.left - stage.clientLeft) / stage.clientWidth * model.side,
    (event.clientY - frame.top - stage.clientTop) / stage.clientHeight * model.side];
}

function listenToStage() {
  let drawing = null;
  stage.addEventListener('pointerdown', event => {
    if (event.button) return;
    if (looks()) { select(-1, pointOf(event)); return; }
    if (drawing !== null) return;
    drawing = event.pointerId;
    stage.setPointerCapture(drawing);
    scene.begin(pointOf(event), byId('color').value);
    change();
  });
  stage.addEventListener('pointermove', event => {
    if (looks() && event.pointerType === 'mouse') select(-1, pointOf(event));
    if (event.pointerId !== drawing) return;
    // Browsers join several moves of a fast pointer to one event.
    const moves = event.getCoalescedEvents?.() ?? [];
    (moves.length ? moves : [event]).forEach(move => scene.extend(pointOf(move)));
  });
  for (const name of ['pointerup', 'pointercancel']) stage.addEventListener(name, event => {
    if (event.pointerId !== drawing) return;
    drawing = null;
    schedule();
  });
  const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  stage.addEventListener('keydown', event => {
    const step = steps[event.key];
    if (!step || !looks() || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const { side } = model, chosen = layer();
    const box = regionBox(chosen, regionAt(chosen, point ?? [side / 2, side / 2], side), side);
    const at = step.map((move, axis) =>
      (box[axis] + box[axis + 2]) / 2 + move * (box[axis + 2] - box[axis]));
    if (at.every(value => value >= 0 && value < side)) select(-1, at);
  });
}

function listenToControls() {
  for (const [id, act] of [
    ['undo', () => scene.undo()],
    ['clear', () => scene.clear()],
    ['background', () => scene.changeBackground()],
  ]) byId(id).addEventListener('click', () => { act(); schedule(); });
  byId('typing').addEventListener('submit', event => {
    event.preventDefault();
    scene.place(byId('typed').value, byId('color').value);
    schedule();
  });
  document.querySelectorAll('[name=mode]').forEach(input => input.addEventListener(
    'change', () => stage.classList.toggle('look', input.value === 'look' && input.checked)));
  byId('threshold').addEventListener('input', showFound);
  byId('onlyBest').addEventListener('change', showFound);
  byId('showBoxes').addEventListener('change', showMarks);
  byId('showMasks').addEventListener('change', showMasks);
  byId('layer').addEventListener('change', showMarks);
  byId('hide').addEventListener('click', () => select(-1));
}

// Start

try {
  // Not above, where a missing runtime would end this module without a word.
  const { loadModel } = await import('./model.js');
  model = await loadModel();
  scene = new Scene(byId('scene'), model.side);
  masks.canvas.width = masks.canvas.height = model.side * FACTOR;
  marks.setAttribute('viewBox', `0 0 ${model.side} ${model.side}`);
  byId('layer').replaceChildren(...model.routing.map(({ stage, block, topk }) =>
    new Option(`stage ${stage}, block ${block} (top ${topk})`)));
  byId('layer').selectedIndex = model.routing.length - 1;
  byId('routing').hidden = !model.routing.length;
  document.querySelector('[value=look]').disabled = !model.routing.length;
  listenToStage();
  listenToControls();
  // The address can hold a scene, and what to select: #digits=31452&look=0
  const hash = new URLSearchParams(location.hash.slice(1));
  scene.place(hash.get('digits') ?? '', byId('color').value);
  await detect();
  if (hash.has('look') && found[hash.get('look')]) select(Number(hash.get('look')));
} catch (error) {
  fail(`The model cannot be loaded: ${error.message}`);
}
