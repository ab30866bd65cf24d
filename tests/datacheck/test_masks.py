"""Masks of objects."""

import numpy as np
import pytest
from small_datasets import HEIGHT, WIDTH, assert_is_found, counts_of


def replace(segmentation):
    return lambda coco: coco.object.update(segmentation=segmentation)


MASKS = [
    (
        'object without a mask',
        lambda coco: coco.object.pop('segmentation'),
        'images/1.jpg',
    ),
    ('mask that does not fit the image', replace('x'), ''),
    (
        'mask that does not fit the image',
        replace(counts_of(np.eye(50))),
        'images/1.jpg',
    ),
    (
        'mask that does not fit the image',
        replace(dict(size=[HEIGHT, WIDTH], counts='zzzz')),
        'images/1.jpg',
    ),
    (
        'mask that does not fit the image',
        replace(dict(size=[HEIGHT, WIDTH], counts=[5, 5])),
        'images/1.jpg',
    ),
    (
        'mask without a valid polygon',
        replace([[10, 10, 30, 30]]),
        'images/1.jpg',
    ),
    (
        'polygons in another form',
        replace([10, 10, 30, 10, 30, 30, 10, 30]),
        'images/1.jpg',
    ),
    (
        'polygons in another form',
        replace([[10, 10], [30, 10], [30, 30]]),
        'images/1.jpg',
    ),
    (
        'polygons in another form',
        replace([[[10, 10], [30, 10], [30, 30]]]),
        'images/1.jpg',
    ),
    ('empty mask', replace([[90, 90, 99, 90, 99, 99]]), 'images/1.jpg'),
    ('mask outside its box', replace([[40, 2, 50, 2, 50, 8]]), 'images/1.jpg'),
    (
        'mask larger than its box',
        replace([[5, 5, 50, 5, 50, 39, 5, 39]]),
        'images/1.jpg',
    ),
]


@pytest.mark.parametrize(('kind', 'harm', 'where'), MASKS)
def test_masks(coco, kind, harm, where):
    harm(coco)
    assert_is_found(coco, kind, where)
