"""Check the masks of objects in COCO's format."""

from typing import List, Optional, Tuple

import numpy as np
from pycocotools import mask as mask_utils

from .checked_pipeline import check_mask
from .polygons import polygon_problem
from .report import Finding


def inspect_mask(
    mask: object, box: List[float], size: Tuple[int, int]
) -> Optional[Finding]:
    """Return the problem of the mask of an object, if any.

    Args:
        mask (object): The ``segmentation`` of the annotation, which should be
            polygons or run lengths.
        box (list[float]): Left, top, width and height, in pixels.
        size (tuple[int, int]): Height and width of the image, in pixels.

    Returns:
        tuple, optional: A kind of problem and details, which may be empty, or
        None if the mask is valid.
    """
    if not mask:
        return 'object without a mask', ''
    problem = polygon_problem(mask)
    if problem:
        return 'polygons in another form', f': {problem}'
    try:
        check_mask(mask, size)
    except ValueError as error:
        return 'mask that does not fit the image', f': {error}'
    if isinstance(mask, list):
        mask = [
            polygon
            for polygon in mask
            if len(polygon) >= 6 and len(polygon) % 2 == 0
        ]
        if not mask:
            return 'mask without a valid polygon', ''
        mask = mask_utils.merge(mask_utils.frPyObjects(mask, *size))
    elif mask.get('counts') is None or mask.get('size') is None:
        return 'mask without a valid polygon', ''
    elif isinstance(mask['counts'], list):
        mask = mask_utils.frPyObjects(mask, *size)
    if not mask_utils.area(mask):
        return 'empty mask', ''
    left, top, width, height = mask_utils.toBbox(mask).tolist()
    inner = np.array([left, top, left + width, top + height])
    outer = np.array([*box[:2], box[0] + box[2], box[1] + box[3]])
    where = f': the mask lies in {[left, top, width, height]}, bbox={box}'
    if (inner[:2] >= outer[2:]).any() or (inner[2:] <= outer[:2]).any():
        return 'mask outside its box', where
    beyond = np.concatenate([outer[:2] - inner[:2], inner[2:] - outer[2:]])
    if (beyond > np.tile(np.maximum(2, 0.1 * np.array(box[2:])), 2)).any():
        return 'mask larger than its box', where
    return None
