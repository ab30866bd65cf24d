"""Map pixels of an image to regions of a layer, and back.

Points are (x, y), in pixels from the upper left corner of the image: pixel
(0, 0) covers the square from (0, 0) to (1, 1). The mapping accounts for
resizing, cropping, flipping, padding of the batch, the stride of the stage,
and padding to whole regions.
"""

from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

import numpy as np

from mmbiformer.utils.errors import ConfigError

_FLIPS = (None, 'horizontal', 'vertical', 'diagonal')


@dataclass(frozen=True)
class ImageGeometry:
    """How an image lies in the input of the network.

    Padding is at the right and bottom, so it does not shift coordinates.

    Args:
        size (tuple[int, int]): Height and width of the image, in pixels.
        scale_factor (tuple[float, float]): Scale factors of width and
            height, in OpenMMLab's order. Default: (1, 1).
        flip_direction (str, optional): ``'horizontal'``, ``'vertical'`` or
            ``'diagonal'`` if the image was flipped. Default: None.
        crop (tuple[float, float]): Pixels that were cut off at the left and
            at the right, and at the top and at the bottom, after resizing.
            Default: (0, 0).

    Raises:
        ValueError: If ``flip_direction`` is not one of these.
    """

    size: Tuple[int, int]
    scale_factor: Tuple[float, float] = (1.0, 1.0)
    flip_direction: Optional[str] = None
    crop: Tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Check the flip direction."""
        if self.flip_direction not in _FLIPS:
            raise ValueError(
                f'flip_direction must be one of {_FLIPS}, got '
                f'flip_direction={self.flip_direction!r}'
            )

    @classmethod
    def from_metainfo(cls, metainfo: Mapping) -> 'ImageGeometry':
        """Create the geometry from the meta information of a data sample.

        Args:
            metainfo (Mapping): ``data_sample.metainfo`` after the model's
                data preprocessor; ``ori_shape`` and ``img_shape`` are needed.

        Returns:
            ImageGeometry: The geometry.
        """
        height, width = metainfo['ori_shape'][:2]
        resized_height, resized_width = metainfo['img_shape'][:2]
        scale_factor = (resized_width / width, resized_height / height)
        # A detection pipeline may pad, and then img_shape includes the
        # padding; a segmentation pipeline may resize to multiples, which
        # scale_factor does not reflect. Only mmdet sets batch_input_shape.
        if 'batch_input_shape' in metainfo and 'scale_factor' in metainfo:
            scale_factor = tuple(map(float, metainfo['scale_factor'][:2]))
        crop = (0.0, 0.0)
        if 'scale_factor' in metainfo:
            # Of mmpretrain's CenterCrop; resizing may round by one pixel.
            factors = tuple(map(float, metainfo['scale_factor'][:2]))
            surplus_x = round(width * factors[0]) - resized_width
            surplus_y = round(height * factors[1]) - resized_height
            if max(surplus_x, surplus_y) > 1:
                scale_factor = factors
                crop = (max(surplus_x, 0) / 2, max(surplus_y, 0) / 2)
        flip_direction = None
        if metainfo.get('flip'):
            flip_direction = metainfo['flip_direction']
        return cls((height, width), scale_factor, flip_direction, crop)

    def _flip(self, points: np.ndarray) -> np.ndarray:
        """Flip points of the image."""
        height, width = self.size
        x, y = points[..., 0], points[..., 1]
        if self.flip_direction in ('horizontal', 'diagonal'):
            x = width - x
        if self.flip_direction in ('vertical', 'diagonal'):
            y = height - y
        return np.stack([x, y], axis=-1)

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Map points of the image to the network's input.

        Args:
            points (np.ndarray): Points (x, y) of shape (..., 2).

        Returns:
            np.ndarray: Points of the same shape, in pixels of the input.
        """
        points = self._flip(np.asarray(points, dtype=float))
        return points * self.scale_factor - np.array(self.crop)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Map points of the network's input to the image.

        Args:
            points (np.ndarray): Points (x, y) of shape (..., 2).

        Returns:
            np.ndarray: Points of the same shape, in pixels of the image;
            those of padding lie outside it.
        """
        points = np.asarray(points, dtype=float) + np.array(self.crop)
        points = points / self.scale_factor
        return self._flip(points)

    @property
    def visible(self) -> Tuple[float, float, float, float]:
        """tuple[float]: Edges of what the network sees of the image.

        Left, top, right and bottom, in pixels of the image.
        """
        height, width = self.size
        x, y = np.array(self.crop) / self.scale_factor
        return (x, y, width - x, height - y)

    def check_point(self, point: Tuple[float, float]) -> None:
        """Check that a point lies inside the image, and is not cut off.

        Args:
            point (tuple[float, float]): The point (x, y).

        Raises:
            ConfigError: If it is not so.
        """
        (x, y), (height, width) = point, self.size
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f'point={x:g},{y:g} lies outside the image, which is {width} '
                f'pixels wide and {height} high: x must be at least 0 and '
                f'below {width}, y at least 0 and below {height}'
            )
        left, top, right, bottom = self.visible
        if not (left <= x < right and top <= y < bottom):
            raise ConfigError(
                f'point={x:g},{y:g} lies in what the test pipeline cuts off: '
                f'x must be at least {left:g} and below {right:g}, y at least '
                f'{top:g} and below {bottom:g}'
            )


@dataclass(frozen=True)
class RegionGrid:
    """The S x S regions of one layer, numbered row by row.

    A token covers ``stride`` x ``stride`` pixels of the input.

    Args:
        n_win (int): Regions per side, S.
        map_size (tuple[int, int]): Height and width of the map before
            padding, in tokens.
        stride (int): Pixels of the input per token.
    """

    n_win: int
    map_size: Tuple[int, int]
    stride: int

    @property
    def padded_size(self) -> Tuple[int, int]:
        """tuple[int, int]: Height and width with padding, in tokens."""
        height, width = self.map_size
        return (height + -height % self.n_win, width + -width % self.n_win)

    @property
    def padding(self) -> Tuple[int, int]:
        """tuple[int, int]: Padding at the bottom and right, in tokens."""
        return (-self.map_size[0] % self.n_win, -self.map_size[1] % self.n_win)

    @property
    def region_size(self) -> Tuple[int, int]:
        """tuple[int, int]: Height and width of a region, in tokens."""
        height, width = self.padded_size
        return (height // self.n_win, width // self.n_win)

    def region_of_token(self, token: Tuple[int, int]) -> int:
        """Return the region that contains a token.

        Args:
            token (tuple[int, int]): Row and column of the token.

        Returns:
            int: Index of the region.
        """
        row, column = np.array(token) // self.region_size
        return int(row * self.n_win + column)

    def token_at(
        self, point: Tuple[float, float], geometry: ImageGeometry
    ) -> Tuple[int, int]:
        """Return the token at a point of the image.

        Args:
            point (tuple[float, float]): The point (x, y).
            geometry (ImageGeometry): How the image lies in the input.

        Returns:
            tuple[int, int]: Row and column of the token.

        Raises:
            ConfigError: If the point lies outside the image.
        """
        geometry.check_point(point)
        x, y = geometry.to_input(point) / self.stride
        # A flip maps the edge of the first pixel to the far edge of the map.
        height, width = self.map_size
        return (min(int(y), height - 1), min(int(x), width - 1))

    def region_at(
        self, point: Tuple[float, float], geometry: ImageGeometry
    ) -> int:
        """Return the region at a point of the image.

        Args:
            point (tuple[float, float]): The point (x, y).
            geometry (ImageGeometry): How the image lies in the input.

        Returns:
            int: Index of the region.

        Raises:
            ConfigError: If the point lies outside the image.
        """
        return self.region_of_token(self.token_at(point, geometry))

    def region_box(
        self, region: int, geometry: ImageGeometry
    ) -> Tuple[float, float, float, float]:
        """Return the part of the image that a region covers.

        Args:
            region (int): Index of the region.
            geometry (ImageGeometry): How the image lies in the input.

        Returns:
            tuple[float, float, float, float]: Left, top, right and bottom
            edge, clipped to the image; a region that consists of padding has
            no area.
        """
        row, column = divmod(region, self.n_win)
        height, width = self.region_size
        corners = np.array(
            [
                [column * width, row * height],
                [(column + 1) * width, (row + 1) * height],
            ]
        )
        corners = geometry.to_image(corners * self.stride)
        corners = np.sort(corners, axis=0).clip(0, geometry.size[::-1])
        return tuple(corners.ravel().tolist())

    def map_extent(
        self, geometry: ImageGeometry
    ) -> Tuple[float, float, float, float]:
        """Return the extent of the map, without the padding to whole regions.

        Args:
            geometry (ImageGeometry): How the image lies in the input.

        Returns:
            tuple[float, float, float, float]: Left, right, bottom and top
            edge in pixels of the image, as matplotlib's ``extent``; the
            padding of the batch lies outside the image.
        """
        height, width = self.map_size
        corners = np.array([[0, 0], [width, height]]) * self.stride
        (left, top), (right, bottom) = geometry.to_image(corners).tolist()
        return (left, right, bottom, top)
