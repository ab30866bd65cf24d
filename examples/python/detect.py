"""Run an exported file on an image: needs onnxruntime, numpy and Pillow only.

    python detect.py MODEL.onnx IMAGE OUT.png

MODEL.onnx is a detector or segmentor that tools/deployment/export.py wrote.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

ALPHA = 0.5


def resize(image, steps):
    """Resize as the first Resize of the test pipeline."""
    for step in steps:
        if step['type'].endswith('Resize') and step.get('scale'):
            width, height = size = step['scale']
            if step.get('keep_ratio'):
                long, short = max(size), min(size)
                w, h = image.size
                factor = min(long / max(w, h), short / min(w, h))
                width, height = int(w * factor + 0.5), int(h * factor + 0.5)
            return image.resize((width, height), Image.BILINEAR)
    return image


def detect(outputs, about, size, scale, threshold=0.5):
    """Print the detections; return their picture, and where it is drawn."""
    layer = Image.new('RGBA', size)
    draw = ImageDraw.Draw(layer)
    for i in np.flatnonzero(outputs['scores'][0] >= threshold):
        label = int(outputs['labels'][0, i])
        if label < 0:  # a place that is not used
            continue
        box = outputs['boxes'][0, i] / scale
        name, score = about['classes'][label], outputs['scores'][0, i]
        print(name, f'{score:.3f}', *(f'{side:.1f}' for side in box))
        color = tuple(about['palette'][label])
        left, top, right, bottom = map(round, box.tolist())
        if 'masks' in outputs and right > left and bottom > top:
            mask = Image.fromarray(outputs['masks'][0, i])
            mask = np.array(mask.resize((right - left, bottom - top), 2))
            inside = mask >= about['postprocessing']['mask_threshold']
            inside = Image.fromarray(np.uint8(255 * ALPHA * inside))
            layer.paste(color, (left, top), inside)
        draw.rectangle((left, top, right, bottom), outline=color)
        draw.text((left + 2, top), f'{name} {score:.2f}', fill=color)
    return layer


def segment(outputs, about, size):
    """Print the share of each class; return their picture."""
    labels = outputs['logits'][0].argmax(0).astype(np.uint8)
    for label in np.unique(labels):
        print(about['classes'][label], f'{(labels == label).mean():.3f}')
    colors = np.array(about['palette'], np.uint8)[labels]
    layer = Image.fromarray(colors).resize(size, Image.NEAREST)
    layer.putalpha(round(255 * ALPHA))
    return layer


def main():
    model, path, out = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map['mmbiformer']
    about = json.loads(about)
    image = Image.open(path).convert('RGB')
    small = resize(image, about['test_pipeline'])
    pixels = np.asarray(small, np.float32)[..., ::-1]  # BGR
    pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    values = session.run(about['outputs'], {'images': pixels})
    outputs = dict(zip(about['outputs'], values, strict=True))
    if 'logits' in outputs:
        layer = segment(outputs, about, image.size)
    else:
        scale = np.tile(np.divide(small.size, image.size), 2)
        layer = detect(outputs, about, image.size, scale)
    picture = Image.alpha_composite(image.convert('RGBA'), layer)
    picture.convert('RGB').save(out)


if __name__ == '__main__':
    main()
