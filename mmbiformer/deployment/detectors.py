"""Detectors as functions from a batch of images to boxes.

The steps are those of mmdet's ``predict``, for all images of a batch at once
and with as many candidates for each: what one image has fewer is filled up
with boxes of the score :data:`~mmbiformer.deployment.operators.IGNORED`.
"""

from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError

from .graphs import Preprocessing, is_overridden
from .operators import IGNORED, nms


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of each image: of (N, M, D) those of index (N, K)."""
    index = index.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, index)


def _as_rows(x: Tensor, channels: int) -> Tensor:
    """Turn a map (N, A*channels, H, W) into rows (N, H*W*A, channels)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)


def _best(scores: Tensor, number: int) -> Tuple[Tensor, Tensor]:
    """Return the best scores of each image and their indices.

    Args:
        scores (Tensor): Scores of shape (N, M).
        number (int): How many; above M, ignored ones are added. Below 1, all.

    Returns:
        tuple[Tensor, Tensor]: Scores and indices of shape (N, number).
    """
    if number < 1:
        index = torch.arange(scores.shape[1], device=scores.device)
        return scores, index.expand(scores.shape[0], -1)
    more = scores.new_full((scores.shape[0], number), IGNORED)
    best, index = torch.cat([scores, more], 1).topk(number, dim=1)
    return best, torch.where(best < 0, torch.zeros_like(index), index)


def _sigmoid(x: Tensor) -> Tensor:
    """Return the sigmoid, without the operator of this name.

    onnxruntime's is 0 from -18 on, and not monotonic near 1, so that the best
    candidates would be others than those of torch.
    """
    return 1 / (1 + (-x).exp())


def _activate(head: nn.Module, logits: Tensor) -> Tensor:
    """Return the scores of the classes, without the background."""
    if head.use_sigmoid_cls:
        return _sigmoid(logits)
    return logits.softmax(-1)[..., :-1]


def _drop_small(boxes: Tensor, scores: Tensor, cfg: Any) -> Tensor:
    """Ignore boxes whose sides are at most ``min_bbox_size``."""
    smallest = cfg.get('min_bbox_size', -1)
    if smallest < 0:
        return scores
    sides = boxes[..., 2:] - boxes[..., :2]
    large = (sides > smallest).all(-1)
    return torch.where(large, scores, torch.full_like(scores, IGNORED))


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, cfg: Any, number: int
) -> Tensor:
    """Apply NMS within groups, in the way of mmcv's ``batched_nms``.

    Args:
        boxes (Tensor): Boxes of shape (N, M, 4).
        scores (Tensor): Their scores, of shape (N, M).
        groups (Tensor): Their classes or levels, of shape (N, M).
        cfg (ConfigDict): Settings of NMS.
        number (int): Boxes to keep of each image, at most.

    Returns:
        Tensor: Indices of the boxes that are kept, or -1, of shape
        (N, number).
    """
    if not cfg.get('class_agnostic', False):
        # mmcv's offsets, from the boxes that it has: as large, they round as
        # much.
        considered = torch.where(
            (scores >= 0).unsqueeze(-1), boxes, torch.zeros_like(boxes)
        )
        step = considered.flatten(1).amax(1) + 1
        offsets = groups.to(boxes) * step.unsqueeze(-1)
        boxes = boxes + offsets.unsqueeze(-1)
    return nms(boxes, scores, float(cfg['iou_threshold']), number)


def trim(kept: Tensor) -> Tensor:
    """Cut the unused places that all images have; one stays.

    Args:
        kept (Tensor): Indices of boxes, or -1, of shape (N, M).

    Returns:
        Tensor: The same, of shape (N, K) with K from 1 to M.
    """
    used = (kept >= 0).sum(1).amax(0).clamp(min=1).item()
    torch._check(used >= 1)
    torch._check(used <= kept.shape[1])
    return kept[:, :used]


def pick(kept: Tensor, *values: Tensor) -> Tuple[Tensor, List[Tensor]]:
    """Return which places are used, and the values of the boxes in them.

    Args:
        kept (Tensor): Indices of boxes, or -1, of shape (N, K).
        *values (Tensor): Values of all boxes, of shape (N, M) or (N, M, D).

    Returns:
        tuple[Tensor, list[Tensor]]: Whether each place is used, and the
        values in all places, of shape (N, K) or (N, K, D).
    """
    used = kept >= 0
    index = kept.clamp(min=0)
    return used, [
        _rows(x, index) if x.dim() == 3 else x.gather(1, index) for x in values
    ]


def check_nms(cfg: Any, name: str) -> None:
    """Refuse forms of NMS that ONNX has no operator for.

    Args:
        cfg (ConfigDict): Settings of NMS.
        name (str): Where they stand, for the message.

    Raises:
        ConfigError: If they ask for another form.
    """
    allowed = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if (
        cfg is None
        or cfg.get('type', 'nms') != 'nms'
        or set(cfg) - allowed
        or 'iou_threshold' not in cfg
    ):
        raise ConfigError(
            f"{name} cannot be exported: only dict(type='nms', iou_threshold="
            f'…), with or without class_agnostic, can; got {name}={cfg!r}'
        )


class Detector(nn.Module):
    """What one-stage and two-stage detectors share.

    Args:
        model (nn.Module): The detector.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.prepare = Preprocessing(model.data_preprocessor)
        self.backbone = model.backbone
        self.neck = model.neck if model.with_neck else nn.Identity()

    @property
    def output_names(self) -> Tuple[str, ...]:
        """tuple[str]: Names of the outputs."""
        return 'boxes', 'scores', 'labels'

    def extract(self, images: Tensor) -> Sequence[Tensor]:
        """Compute the maps of the neck."""
        return self.neck(self.backbone(self.prepare(images)))


def dense_candidates(
    head: nn.Module, outs: Sequence[Sequence[Tensor]], cfg: Any, size: tuple
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the best boxes of all levels of a dense head.

    Args:
        head (nn.Module): The head.
        outs (Sequence[Sequence[Tensor]]): Its scores, boxes and, of some
            heads, factors of the scores, level by level.
        cfg (ConfigDict): Its settings for testing.
        size (tuple): Height and width of the images.

    Returns:
        tuple[Tensor, ...]: Boxes (N, M, 4), scores, classes and levels
        (N, M).
    """
    cls_scores, bbox_preds = outs[:2]
    factors = outs[2] if len(outs) > 2 else [None] * len(cls_scores)
    n = cls_scores[0].shape[0]
    priors_of_levels = head.prior_generator.grid_priors(
        [x.shape[-2:] for x in cls_scores],
        dtype=cls_scores[0].dtype,
        device=cls_scores[0].device,
    )
    found: List[List[Tensor]] = [[], [], [], [], []]
    for level, (logits, deltas, factor, priors) in enumerate(
        zip(cls_scores, bbox_preds, factors, priors_of_levels, strict=True)
    ):
        scores = _activate(head, _as_rows(logits, head.cls_out_channels))
        classes = scores.shape[-1]
        deltas = _as_rows(deltas, head.bbox_coder.encode_size)
        scores = scores.flatten(1)
        threshold = cfg.get('score_thr', 0)
        if threshold > 0 or classes > 1:
            above = scores > threshold
            scores = torch.where(
                above, scores, torch.full_like(scores, IGNORED)
            )
        scores, index = _best(scores, cfg.get('nms_pre', -1))
        place = index // classes
        if factor is not None:
            factor = _sigmoid(_as_rows(factor, 1).flatten(1)).gather(1, place)
            scores = torch.where(scores < 0, scores, scores * factor)
        for values, value in zip(
            found,
            (
                scores,
                index % classes,
                torch.full_like(index, level),
                _rows(deltas, place),
                priors[place],
            ),
            strict=True,
        ):
            values.append(value)
    scores, labels, levels, deltas, priors = (
        torch.cat(values, 1) for values in found
    )
    boxes = head.bbox_coder.decode(
        priors.flatten(0, 1), deltas.flatten(0, 1), max_shape=size
    ).view(n, -1, 4)
    return boxes, _drop_small(boxes, scores, cfg), labels, levels


def _check_dense(head: nn.Module, name: str) -> None:
    """Refuse heads that do not predict as the base class does."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    if not isinstance(head, BaseDenseHead) or is_overridden(
        head,
        BaseDenseHead,
        'predict',
        'predict_by_feat',
        '_predict_by_feat_single',
        '_bbox_post_process',
    ):
        raise ConfigError(
            f'{type(head).__name__} cannot be exported: it does not predict '
            f'as mmdet.models.BaseDenseHead does (model.{name})'
        )
    check_nms(head.test_cfg.get('nms'), 'model.test_cfg.nms')


class OneStageGraph(Detector):
    """A detector with a dense head, such as RetinaNet, FCOS or ATSS.

    Args:
        model (nn.Module): A ``SingleStageDetector`` of mmdet.

    Raises:
        ConfigError: If its head predicts in a way of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        _check_dense(model.bbox_head, 'bbox_head')
        self.bbox_head = model.bbox_head

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            tuple[Tensor]: Boxes (N, K, 4) in pixels of the images, scores and
            labels (N, K); K is the number of the image with the most, and
            others have the label -1 in places that they do not need.
        """
        cfg = self.bbox_head.test_cfg
        boxes, scores, labels, _ = dense_candidates(
            self.bbox_head,
            self.bbox_head(self.extract(images)),
            cfg,
            images.shape[-2:],
        )
        kept = trim(suppress(boxes, scores, labels, cfg.nms, cfg.max_per_img))
        used, picked = pick(kept, boxes, scores, labels)
        return blank(used, *picked)


def blank(
    used: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor
) -> Tuple[Tensor, Tensor, Tensor]:
    """Clear the places that are not used.

    Args:
        used (Tensor): Whether each place is used, of shape (N, K).
        boxes (Tensor): Boxes of shape (N, K, 4).
        scores (Tensor): Scores of shape (N, K).
        labels (Tensor): Labels of shape (N, K).

    Returns:
        tuple[Tensor, ...]: The same, with 0, 0 and -1 in unused places.
    """
    return (
        torch.where(used.unsqueeze(-1), boxes, torch.zeros_like(boxes)),
        torch.where(used, scores, torch.zeros_like(scores)),
        torch.where(used, labels, torch.full_like(labels, -1)),
    )
