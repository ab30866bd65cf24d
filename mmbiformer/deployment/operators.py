"""What detectors compute and torch has no operator for, as operators.

They are registered with torch, so that ``torch.export`` keeps them as they
are, and have a translation to the standard operators of ONNX.
"""

from typing import Any, Callable, Dict, List

import torch
from torch import Tensor

IGNORED = -1.0
"""float: Score of what is not a detection; scores are not negative."""


@torch.library.custom_op('mmbiformer::nms', mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int
) -> Tensor:
    """Suppress boxes that overlap one of a higher score, image by image.

    Args:
        boxes (Tensor): Boxes of shape (N, M, 4).
        scores (Tensor): Their scores, of shape (N, M); those below 0 are not
            considered.
        iou_threshold (float): Overlap from which on a box is suppressed.
        max_output (int): Boxes of each image that are kept, at most.

    Returns:
        Tensor: Indices of the boxes that are kept (int64), by descending
        score and then -1, of shape (N, max_output).
    """
    from mmcv.ops import nms as nms_of_one

    kept = scores.new_full((len(scores), max_output), -1, dtype=torch.int64)
    for i, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        considered = (score >= 0).nonzero().flatten()
        if len(considered):
            _, keep = nms_of_one(
                box[considered].contiguous(), score[considered], iou_threshold
            )
            keep = considered[keep[:max_output]]
            kept[i, : len(keep)] = keep
    return kept


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_output: int
) -> Tensor:
    return scores.new_empty((scores.shape[0], max_output), dtype=torch.int64)


@torch.library.custom_op('mmbiformer::pyramid_roi_align', mutates_args=())
def pyramid_roi_align(
    maps: List[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: List[int],
    spatial_scales: List[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool regions of interest, each from the map of its level.

    Args:
        maps (list[Tensor]): Maps of shape (N, C, H_i, W_i).
        rois (Tensor): Regions of shape (R, 5): image, x1, y1, x2, y2.
        levels (Tensor): Index of the map of each region, of shape (R,).
        output_size (list[int]): Height and width of the pooled regions.
        spatial_scales (list[float]): Cells of each map for one pixel.
        sampling_ratio (int): Samples for each cell of the output and axis, 0
            for as many as the map has cells.
        aligned (bool): Whether to shift by half a pixel.

    Returns:
        Tensor: Pooled regions of shape (R, C, h, w).
    """
    from mmcv.ops import roi_align

    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *output_size)
    for i, (one, scale) in enumerate(zip(maps, spatial_scales, strict=True)):
        index = (levels == i).nonzero().flatten()
        if len(index):
            pooled[index] = roi_align(
                one.contiguous(), rois[index], tuple(output_size), scale,
                sampling_ratio, 'avg', aligned,
            )  # fmt: skip
    return pooled


@pyramid_roi_align.register_fake
def _(
    maps: List[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: List[int],
    spatial_scales: List[float],
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return maps[0].new_empty(rois.shape[0], maps[0].shape[1], *output_size)


def translations(opset: int) -> Dict[Callable, Callable]:
    """Return how to write the operators in ONNX.

    Args:
        opset (int): Version of ONNX' standard operators.

    Returns:
        dict[Callable, Callable]: A translation for each operator, as
        ``torch.onnx.export`` takes it.
    """
    import onnx
    import onnxscript

    op: Any = getattr(onnxscript, f'opset{opset}')
    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def translate_nms(
        boxes: Any, scores: Any, iou_threshold: float, max_output: int
    ) -> Any:
        selected = op.NonMaxSuppression(
            # Runtimes that do not follow shapes through the graph must know 4.
            op.Reshape(boxes, ints(0, -1, 4)),
            op.Unsqueeze(scores, ints(1)),
            ints(max_output),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[IGNORED / 2]),
        )
        image = op.Gather(selected, op.Constant(value_int=0), axis=1)
        index = op.Gather(selected, op.Constant(value_int=2), axis=1)
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        images = op.Shape(scores, start=0, end=1)
        # They are sorted by image: their ranks in it count from its first.
        earlier = op.Less(
            op.Unsqueeze(image, ints(0)),
            op.Unsqueeze(
                op.Range(zero, op.Squeeze(images, ints(0)), one), ints(1)
            ),
        )
        first = op.ReduceSum(op.Cast(earlier, to=int64), ints(1), keepdims=0)
        count = op.Squeeze(op.Shape(image, start=0, end=1), ints(0))
        rank = op.Sub(op.Range(zero, count, one), op.Gather(first, image))
        kept = op.Expand(ints(-1), op.Concat(images, ints(max_output), axis=0))
        where = op.Concat(
            op.Unsqueeze(image, ints(1)), op.Unsqueeze(rank, ints(1)), axis=1
        )
        return op.ScatterND(kept, where, index)

    def translate_roi_align(
        maps: Any,
        rois: Any,
        levels: Any,
        output_size: List[int],
        spatial_scales: List[float],
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        image = op.Cast(
            op.Gather(rois, op.Constant(value_int=0), axis=1), to=int64
        )
        boxes = op.Gather(rois, ints(1, 2, 3, 4), axis=1)
        channels = op.Shape(maps[0], start=1, end=2)
        shape = op.Concat(
            op.Shape(rois, start=0, end=1), channels, ints(*output_size),
            axis=0,
        )  # fmt: skip
        pooled = op.Expand(op.Constant(value_floats=[0.0]), shape)
        for i, scale in enumerate(spatial_scales):
            here = op.Equal(levels, op.Constant(value_int=i))
            # Of shape (1, R'), and (R', 1) where it is an index of rows.
            found = op.NonZero(here)
            index = op.Squeeze(found, ints(0))
            some = op.RoiAlign(
                maps[i],
                op.Gather(boxes, index),
                op.Gather(image, index),
                coordinate_transformation_mode=(
                    'half_pixel' if aligned else 'output_half_pixel'
                ),
                mode='avg',
                output_height=output_size[0],
                output_width=output_size[1],
                sampling_ratio=sampling_ratio,
                spatial_scale=scale,
            )
            rows = op.Transpose(found, perm=[1, 0])
            pooled = op.ScatterND(pooled, rows, op.Cast(some, to=float32))
        return pooled

    return {
        torch.ops.mmbiformer.nms.default: translate_nms,
        torch.ops.mmbiformer.pyramid_roi_align.default: translate_roi_align,
    }
