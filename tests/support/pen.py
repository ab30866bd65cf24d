"""Handwritten digits as the strokes of a pen."""

import cv2
import numpy as np


def _thin(inside):
    """Thin a shape to lines, by the algorithm of Zhang and Suen.

    Args:
        inside (np.ndarray): Pixels of the shape, bool, of shape (H, W); none
            at the border.

    Returns:
        np.ndarray: Pixels of the lines.
    """
    inside = inside.copy()
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            # The eight neighbors, clockwise from above.
            shifts = [(1, 0), (1, -1), (0, -1), (-1, -1)]
            shifts += [(-y, -x) for y, x in shifts]
            near = np.stack([np.roll(inside, s, (0, 1)) for s in shifts])
            count = near.sum(0)
            steps = (~near & np.roll(near, -1, 0)).sum(0)
            up, right, down, left = near[::2]
            if first:
                keep = (up & right & down) | (right & down & left)
            else:
                keep = (up & right & left) | (up & down & left)
            gone = inside & (count >= 2) & (count <= 6) & (steps == 1) & ~keep
            inside &= ~gone
            changed |= bool(gone.any())
    return inside


def trace(glyph, height):
    """Return the strokes of a digit.

    Args:
        glyph (np.ndarray): Digit of shape (8, 8), from 0 to 1.
        height (int): Its height in pixels.

    Returns:
        list[np.ndarray]: Points (x, y) of each stroke, of shape (P, 2), in a
        square of that height.
    """
    large = cv2.resize(glyph, (height, height), interpolation=cv2.INTER_CUBIC)
    lines = _thin(np.pad(large > 0.5, 2))
    left = {(x - 2, y - 2) for y, x in np.argwhere(lines).tolist()}

    def near(point):
        x, y = point
        around = [(x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        # Neighbors above and beside before diagonal ones.
        around.sort(key=lambda p: abs(p[0] - x) + abs(p[1] - y))
        return [p for p in around[1:]]

    strokes = []
    while left:
        # From an end, if there is one.
        start = min(left, key=lambda p: (sum(q in left for q in near(p)), p))
        stroke = [q for q in near(start) if any(q in s for s in strokes)][:1]
        while start:
            left.discard(start)
            stroke.append(start)
            start = next((q for q in near(start) if q in left), None)
        strokes.append(stroke)
    return [np.array(stroke) + 0.5 for stroke in strokes if len(stroke) > 3]
