"""Print the classes of an image: needs onnxruntime, numpy and Pillow only.

    python classify.py MODEL.onnx IMAGE

MODEL.onnx is a classifier that tools/deployment/export.py wrote.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def resize(image, step):
    """Resize such that the short side has a given length."""
    short = min(image.size)
    size = [int(step['scale'] * side / short) for side in image.size]
    # Where the pipeline resizes by OpenCV, Pillow smooths a little more.
    kind = step.get('interpolation', 'bilinear').upper()
    return image.resize(size, Image.Resampling[kind])


def crop(image, size):
    """Cut out the center, a square or of (width, height)."""
    sides = (size, size) if isinstance(size, int) else size
    pairs = list(zip(image.size, sides, strict=True))
    start = [max(0, round((whole - side) / 2)) for whole, side in pairs]
    end = [x + min(pair) for x, pair in zip(start, pairs, strict=True)]
    return image.crop((*start, *end))


def prepare(image, steps):
    """Pass an image through the test pipeline."""
    for step in steps:
        kind = step['type'].rpartition('.')[2]
        if kind == 'ResizeEdge' and step.get('edge', 'short') == 'short':
            image = resize(image, step)
        elif kind == 'CenterCrop':
            image = crop(image, step['crop_size'])
        elif kind not in ('LoadImageFromFile', 'PackInputs'):
            sys.exit(f'classify.py: error: cannot take the step {step}')
    return image


def main():
    model, path = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map['mmbiformer']
    about = json.loads(about)
    image = prepare(Image.open(path).convert('RGB'), about['test_pipeline'])
    pixels = np.float32(image)[..., ::-1].transpose(2, 0, 1)  # BGR
    (scores,) = session.run(['scores'], {'images': pixels[None]})
    for label in np.argsort(-scores[0])[:5]:
        print(about['classes'][label], f'{scores[0, label]:.3f}')


if __name__ == '__main__':
    main()
