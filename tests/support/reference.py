"""Weights and inputs behind the reference arrays in ``tests/data``."""

import ast
import json
import zlib
from pathlib import Path
from typing import Dict, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parents[1] / 'data'


def load(name: str) -> Dict[str, np.ndarray]:
    """Return the arrays of ``tests/data/<name>.npz``; no pickles."""
    with np.load(DATA / f'{name}.npz', allow_pickle=False) as arrays:
        return dict(arrays)


def released_shapes(arch: str) -> Dict[str, Sequence[int]]:
    """Return names and shapes of the weights in a released checkpoint."""
    if arch == 'stl':
        arrays = load('stl_cls_224')
        shapes = map(ast.literal_eval, arrays['shapes'].tolist())
        return dict(zip(arrays['keys'].tolist(), shapes, strict=True))
    return json.loads((DATA / 'imagenet_checkpoint_keys.json').read_text())[
        arch
    ]


def make_weights(
    shapes: Mapping[str, Sequence[int]], seed: int
) -> Dict[str, Tensor]:
    """Return float64 weights that depend only on name, shape and seed."""
    weights = {}
    for name, shape in shapes.items():
        shape = tuple(shape)
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if name.endswith('num_batches_tracked'):
            weights[name] = torch.zeros((), dtype=torch.long)
            continue
        if name.endswith('running_var'):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        else:
            center = float(name.endswith('weight'))
            value = center + 0.1 * rng.standard_normal(shape)
        weights[name] = torch.from_numpy(np.asarray(value))
    return weights


def fill(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a module the reference weights, in float64 and eval mode."""
    module = module.double().eval()
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    module.load_state_dict(make_weights(shapes, seed))
    return module


def make_input(shape: Sequence[int], seed: int) -> Tensor:
    """Return the float64 input of a reference case."""
    rng = np.random.default_rng([seed, 77])
    return torch.from_numpy(rng.standard_normal(tuple(shape)))
