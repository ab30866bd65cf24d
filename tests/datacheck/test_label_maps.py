"""Label maps that are unusual, broken or not those of their images."""

import numpy as np
import pytest
from PIL import Image
from small_datasets import (
    NAMES,
    assert_is_found,
    train,
    truncate,
    turn,
    write_image,
)

from mmbiformer.datacheck.splits import check_split


def harm_labels(labels):
    return lambda pairs: pairs.write_labels('1', labels(pairs.labels))


LABELS = [
    (
        'missing label map',
        lambda pairs: (pairs.folder / 'labels/1.png').unlink(),
        'labels/1.png',
    ),
    (
        'broken label map',
        lambda pairs: truncate(pairs.folder / 'labels/1.png'),
        'labels/1.png',
    ),
    (
        'broken label map',
        harm_labels(lambda labels: np.dstack([labels] * 3)),
        'labels/1.png',
    ),
    (
        'broken label map',
        harm_labels(lambda labels: labels.astype(np.uint16) + 256),
        'labels/1.png',
    ),
    (
        'label map size mismatch',
        harm_labels(lambda labels: labels[1:]),
        'labels/1.png',
    ),
    (
        'label map size mismatch',
        lambda pairs: turn(pairs.folder / 'images/1.jpg'),
        'labels/1.png',
    ),
    (
        'label outside the classes',
        harm_labels(lambda labels: labels + 1),
        'labels/1.png',
    ),
    (
        'label map without labels',
        harm_labels(lambda labels: labels * 0 + 255),
        'labels/1.png',
    ),
    (
        'heads do not fit the classes',
        lambda pairs: pairs.cfg.model.decode_head.update(num_classes=9),
        'decode_head.num_classes=9',
    ),
    ('no image', lambda pairs: pairs.dataset.update(img_suffix='.JPG'), ''),
]


@pytest.mark.parametrize(('kind', 'harm', 'where'), LABELS)
def test_label_maps(pairs, kind, harm, where):
    harm(pairs)
    if kind == 'no image':
        for path in list((pairs.folder / 'images').iterdir()):
            path.unlink()
        for path in list((pairs.folder / 'labels').iterdir()):
            path.unlink()
    assert_is_found(pairs, kind, where)


def test_files_that_are_passed_over(pairs):
    (pairs.folder / 'images/1.jpg').rename(pairs.folder / 'images/1.JPEG')
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.fatal
    (picture,) = report.problems['image with another suffix']
    (label,) = report.problems['label map without an image']
    assert picture.endswith('images/1.JPEG')
    assert label.endswith('labels/1.png')
    assert train(pairs) == ['0.jpg', '2.jpg', '3.jpg']


def test_half_turned_pairs(pairs):
    """Of one size, and yet not the same way up: nothing else could tell."""
    exif = Image.Exif()
    exif[274] = 3
    write_image(pairs.folder / 'images/1.jpg', exif=exif)
    assert_is_found(pairs, 'label map not rotated by EXIF', 'images/1.jpg')


def test_reduce_zero_label(pairs):
    pairs.dataset.reduce_zero_label = True
    for name in NAMES:
        pairs.write_labels(name, pairs.labels + 1)
    report = check_split(pairs.cfg, 'train', workers=1)
    assert not report.problems
    assert report.classes['c'] == (0.5, 4)
    pairs.write_labels('1', pairs.labels + 2)
    assert_is_found(pairs, 'label outside the classes', 'labels/1.png')
