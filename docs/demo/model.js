// The exported model, run by onnxruntime-web.

import * as ort from './vendor/ort.wasm.bundle.min.mjs';

ort.env.wasm.wasmPaths = {
  wasm: new URL('vendor/ort-wasm-simd-threaded.wasm', import.meta.url).href,
};
// More threads need headers that a plain file server does not send.
ort.env.wasm.numThreads = 1;

/**
 * Load the model.
 *
 * @returns {Promise<Object>} What model.json says of it, and `run`, which takes
 *   an input of decode.js and returns the outputs by name.
 */
export async function loadModel() {
  const [about, graph] = await Promise.all(
    ['model.json', 'model.onnx'].map(async name => {
      const response = await fetch(new URL(name, import.meta.url));
      if (!response.ok) throw new Error(`${name}: status ${response.status}`);
      return name.endsWith('.json') ? response.json() : response.arrayBuffer();
    }));
  const session = await ort.InferenceSession.create(graph, { executionProviders: ['wasm'] });
  const { side } = about;
  const run = input =>
    session.run({ images: new ort.Tensor('float32', input, [1, 3, side, side]) });
  return { ...about, run };
}
