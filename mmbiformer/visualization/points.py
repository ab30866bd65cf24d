"""Choose query points of an image."""

from typing import List, Optional, Tuple

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

MIN_SCORE = 0.3
"""float: Detections with a lower score are ignored, as in mmdet's drawing."""

Point = Tuple[float, float]


def default_points(
    size: Tuple[int, int],
    visible: Optional[Tuple[float, float, float, float]] = None,
) -> List[Point]:
    """Choose points of an image without predictions.

    Args:
        size (tuple[int, int]): Height and width of the image, in pixels.
        visible (tuple[float, float, float, float], optional): Left, top,
            right and bottom edge of what the network sees of it. Default:
            None, which means all.

    Returns:
        list[tuple[float, float]]: Three points (x, y) on a diagonal.
    """
    left, top, right, bottom = visible or (0, 0, *size[::-1])
    return [
        (
            float((left + (right - left) * share) // 1),
            float((top + (bottom - top) * share) // 1),
        )
        # Not on the border of two regions for any common S.
        for share in (0.23, 0.48, 0.73)
    ]


def object_points(prediction: BaseDataElement, limit: int = 3) -> List[Point]:
    """Choose a point on each of the highest-scoring or largest objects.

    Args:
        prediction (BaseDataElement): Data sample with predictions, in pixels
            of the image before resizing.
        limit (int): Maximum number of points. Default: 3.

    Returns:
        list[tuple[float, float]]: Points (x, y), of detections by descending
        score, each outside the boxes of the previous ones, or of segments by
        descending area. Empty if nothing was predicted.
    """
    if 'pred_instances' in prediction:
        return _instance_points(prediction, limit)
    for name in ('pred_sem_seg', 'pred_panoptic_seg'):
        if name in prediction:
            segments = getattr(prediction, name)
            segments = segments.get('data', segments.get('sem_seg'))
            segments = segments.squeeze(0).cpu().numpy()
            labels, areas = np.unique(segments, return_counts=True)
            largest = labels[np.argsort(-areas)][:limit]
            return [_innermost(segments == label) for label in largest]
    return []


def _instance_points(prediction: BaseDataElement, limit: int) -> List[Point]:
    """Choose a point on each of the highest-scoring detections."""
    instances = prediction.pred_instances.cpu().numpy()
    height, width = prediction.ori_shape[:2]
    points, boxes = [], []
    for i in np.argsort(-instances.scores):
        if instances.scores[i] < MIN_SCORE or len(points) == limit:
            break
        left, top, right, bottom = instances.bboxes[i].tolist()
        if 'masks' in instances and instances.masks[i].any():
            x, y = _innermost(instances.masks[i])
        else:
            x = float(np.clip((left + right) // 2, 0, width - 1))
            y = float(np.clip((top + bottom) // 2, 0, height - 1))
        if not any(
            x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes
        ):
            points.append((x, y))
            boxes.append((left, top, right, bottom))
    return points


def _innermost(mask: np.ndarray) -> Point:
    """Return the point of a mask that is farthest from its boundary."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), mask.shape)
    return (float(x), float(y))
