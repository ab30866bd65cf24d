"""Files in whole numbers of 8 bits: smaller, and a little off."""

import contextlib
import logging
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence

import numpy as np

from mmbiformer.utils.errors import ConfigError

from .runtime import INPUT, Session, require
from .verify import split_outputs

MODES = ('dynamic', 'static')
"""tuple[str]: Ranges of values found while running, or beforehand on images
for calibration."""
MIN_SCORE = 0.3
"""float: Detections from this score on are to be found again."""
MIN_IOU = 0.5
"""float: Overlap from which on a detection is found again."""


_COUNTED = {
    'object detection': 'detections',
    'instance segmentation': 'detections',
    'image classification': 'images',
}


class _Images:
    """Images for calibration, as onnxruntime asks for them.

    Args:
        batches (Sequence[np.ndarray]): Images of shape (N, 3, H, W).
    """

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self.left: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> Dict[str, np.ndarray]:
        """Return the next input; None at the end."""
        batch = next(self.left, None)
        return None if batch is None else {INPUT: batch.astype(np.float32)}


def quantize(
    source: Path, target: Path, mode: str, batches: Sequence[np.ndarray]
) -> None:
    """Write a file with weights, and where it helps values, of 8 bits.

    Args:
        source (Path): ONNX file of float32.
        target (Path): File to write.
        mode (str): One of :data:`MODES`.
        batches (Sequence[np.ndarray]): Images for calibration, of shape
            (N, 3, H, W); read if ``mode`` is ``'static'``.

    Raises:
        ConfigError: If ``mode`` is another, or there are no images.
    """
    if mode not in MODES:
        raise ConfigError(f'int8 must be one of {MODES}, got int8={mode!r}')
    quantization = require('onnxruntime.quantization')
    onnx = require('onnx')
    weight = quantization.QuantType.QInt8
    with _quiet():
        if mode == 'dynamic':
            quantization.quantize_dynamic(
                str(source), str(target), per_channel=True, weight_type=weight,
            )  # fmt: skip
        else:
            if not batches:
                raise ConfigError('int8 static needs images for calibration')
            quantization.quantize_static(
                str(source),
                str(target),
                _reader(quantization, batches),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=['Conv', 'MatMul', 'Gemm'],
                per_channel=True,
                weight_type=weight,
                activation_type=quantization.QuantType.QUInt8,
            )
    # onnxruntime leaves out what the file says of itself.
    written = onnx.load(str(target))
    del written.metadata_props[:]
    written.metadata_props.extend(onnx.load(str(source)).metadata_props)
    onnx.save(written, str(target))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide onnxruntime's advice, which goes to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _reader(quantization: object, batches: Sequence[np.ndarray]) -> object:
    """Return the images as a reader of onnxruntime's own type."""
    base = quantization.CalibrationDataReader
    return type('Images', (_Images, base), {})(batches)


class Loss(NamedTuple):
    """What is lost by 8 bits.

    Attributes:
        size (float): Size of the file, in units of that of float32.
        found (float): Share that is found again, of detections, pixels or
            images.
        number (int): How many there are.
        name (str): Which of them.
    """

    size: float
    found: float
    number: int
    name: str

    def describe(self) -> str:
        """Return a line of text."""
        return (
            f'int8        {self.size:.3f} of the size, {100 * self.found:.1f} '
            f'% of {self.number} {self.name} found again'
        )


def compare_files(
    source: Path, target: Path, batches: Sequence[np.ndarray]
) -> Loss:
    """Compare the predictions of a file of 8 bits with those of float32.

    Args:
        source (Path): File of float32.
        target (Path): File of 8 bits.
        batches (Sequence[np.ndarray]): Images of shape (N, 3, H, W).

    Returns:
        Loss: Share of the detections from :data:`MIN_SCORE` on that have one
        of their label and an overlap of :data:`MIN_IOU`; of images, pixels or
        maps, the share of equal classes.
    """
    full, small = Session(str(source)), Session(str(target))
    found = number = 0
    for batch in batches:
        outputs = map(split_outputs, (full(batch), small(batch)))
        for one, other in zip(*outputs, strict=True):
            if 'labels' in one:
                hits = _found_again(one, other)
            else:
                name = full.output_names[-1]
                hits = list(
                    (one[name].argmax(0) == other[name].argmax(0)).ravel()
                )
            found, number = found + sum(hits), number + len(hits)
    return Loss(
        target.stat().st_size / source.stat().st_size,
        found / number if number else 1.0,
        number,
        _COUNTED.get(full.metadata['task'], 'pixels'),
    )


def _found_again(one: dict, other: dict) -> List[bool]:
    """Tell for each detection of an image whether another file has it."""
    hits = []
    left = set(range(len(other['labels'])))
    for label, score, box in zip(
        one['labels'], one['scores'], one['boxes'], strict=True
    ):
        if score < MIN_SCORE:
            continue
        overlaps = {
            i: _iou(box, other['boxes'][i])
            for i in left
            if other['labels'][i] == label
        }
        best = max(overlaps, key=lambda i: overlaps[i], default=None)
        hit = best is not None and overlaps[best] >= MIN_IOU
        if hit:
            left.remove(best)
        hits.append(bool(hit))
    return hits


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the overlap of two boxes."""
    start = np.maximum(one[:2], other[:2])
    end = np.minimum(one[2:], other[2:])
    shared = np.prod(np.clip(end - start, 0, None))
    areas = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])
    return float(shared / max(areas - shared, 1e-9))
