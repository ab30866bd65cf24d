"""Run an exported file on an image: needs onnxruntime, numpy and Pillow only.

    python detect.py MODEL.onnx IMAGE OUT.png

MODEL.onnx is a detector or segmentor that tools/deployment/export.py wrote.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw


def resize(image, steps):
    """Resize as the test pipeline does."""
    step = next(s for s in steps if s['type'].endswith('Resize'))
    width, height = step['scale']
    if step.get('keep_ratio'):
        factor = min(
            max(step['scale']) / max(image.size),
            min(step['scale']) / min(image.size),
        )
        width, height = (int(side * factor + 0.5) for side in image.size)
    return image.resize((width, height), Image.BILINEAR)


def detect(outputs, about, image, scale):
    """Print and draw detections."""
    draw = ImageDraw.Draw(image)
    for i in np.flatnonzero(outputs['scores'][0] >= 0.5):
        label, score = outputs['labels'][0, i], outputs['scores'][0, i]
        box = outputs['boxes'][0, i] / scale
        name, color = about['classes'][label], tuple(about['palette'][label])
        print(name, f'{score:.3f}', *(f'{side:.1f}' for side in box))
        left, top, right, bottom = map(round, box.tolist())
        if 'masks' in outputs and right > left and bottom > top:
            mask = Image.fromarray(outputs['masks'][0, i])
            mask = mask.resize((right - left, bottom - top), Image.BILINEAR)
            threshold = about['postprocessing']['mask_threshold']
            inside = np.uint8(128 * (np.asarray(mask) >= threshold))
            image.paste(color, (left, top), Image.fromarray(inside))
        draw.rectangle((left, top, right, bottom), outline=color)
        draw.text((left + 2, top), f'{name} {score:.2f}', fill=color)
    return image


def segment(logits, about, image):
    """Print the share of each class, and color the pixels."""
    labels = logits.argmax(0)
    values, counts = np.unique(labels, return_counts=True)
    for label, count in zip(values, counts, strict=True):
        print(about['classes'][label], f'{count / labels.size:.3f}')
    colors = Image.fromarray(np.array(about['palette'], np.uint8)[labels])
    return Image.blend(image, colors.resize(image.size, Image.NEAREST), 0.5)


def main():
    model, path, out = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    about = session.get_modelmeta().custom_metadata_map['mmbiformer']
    about = json.loads(about)
    image = Image.open(path).convert('RGB')
    small = resize(image, about['test_pipeline'])
    pixels = np.float32(small)[..., ::-1].transpose(2, 0, 1)  # BGR
    outputs = session.run(about['outputs'], {'images': pixels[None]})
    outputs = dict(zip(about['outputs'], outputs, strict=True))
    if 'logits' in outputs:
        image = segment(outputs['logits'][0], about, image)
    else:
        scale = np.divide(small.size, image.size)
        image = detect(outputs, about, image, np.tile(scale, 2))
    image.save(out)


if __name__ == '__main__':
    main()
