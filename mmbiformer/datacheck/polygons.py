"""The form of COCO's polygons."""

from typing import Optional

_FORM = "COCO's are [[x1, y1, x2, y2, x3, y3, …], …], a list for each polygon"


def polygon_problem(mask: object) -> Optional[str]:
    """Tell whether polygons are written in another form than COCO's.

    mmdet fails on a flat list. It takes a list of points as polygons of one
    point each, and ignores the object without a message.

    Args:
        mask (object): The ``segmentation`` of an object.

    Returns:
        str, optional: What it is instead, or None for COCO's form and for
        what is no list.
    """
    if not isinstance(mask, list) or not mask:
        return None
    if any(isinstance(polygon, (int, float)) for polygon in mask):
        return f'its mask is a flat list of numbers; {_FORM}'
    lists = [polygon for polygon in mask if isinstance(polygon, list)]
    nested = any(
        isinstance(value, (list, dict)) for part in lists for value in part
    )
    single = len(lists) > 2 and all(len(part) == 2 for part in lists)
    if nested or single or any(isinstance(part, dict) for part in mask):
        return f'its mask is a list of points; {_FORM}'
    return None
