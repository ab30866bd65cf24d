"""Images to verify files with, drawn."""

from typing import List, Tuple

import cv2
import numpy as np

from .tracing import Sizes


def sizes_to_try(sizes: Sizes) -> List[Tuple[int, int, int]]:
    """Return batch, height and width of the images to compare.

    Args:
        sizes (Sizes): What the file takes.

    Returns:
        list[tuple[int, int, int]]: Three sizes where they are free: a square,
        a wide one, and a tall one whose sides are odd and divided by hardly
        any ``n_win``; with one image and with two.
    """
    shapes = [(160, 160), (131, 203), (257, 149)]
    tried = []
    for index, (height, width) in enumerate(shapes):
        one = (
            sizes.batch or 1 + index % 2,
            sizes.height or height,
            sizes.width or width,
        )
        if one not in tried:
            tried.append(one)
    if sizes.batch is None and len(tried) == 1:
        tried.append((2, *tried[0][1:]))
    return tried


def scene(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw images of noise with shapes in them.

    Args:
        batch (int): Images.
        height (int): Their height.
        width (int): Their width.
        seed (int): Of the random numbers. Default: 0.

    Returns:
        np.ndarray: Images of shape (N, 3, H, W), uint8.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(batch):
        small = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3))
        image = cv2.resize(
            small.astype(np.uint8), (width, height),
            interpolation=cv2.INTER_CUBIC,
        )  # fmt: skip
        for _ in range(6):
            center = int(rng.integers(width)), int(rng.integers(height))
            side = int(rng.integers(8, max(9, min(height, width) // 3)))
            color = tuple(map(int, rng.integers(0, 256, 3)))
            cv2.circle(image, center, side // 2, color, -1)
            cv2.putText(
                image, str(rng.integers(10)), center,
                cv2.FONT_HERSHEY_SIMPLEX, side / 24, color[::-1], 3,
            )  # fmt: skip
        images.append(image.transpose(2, 0, 1))
    return np.stack(images)
