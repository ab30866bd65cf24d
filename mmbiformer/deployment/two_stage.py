"""Detectors of proposals, boxes and masks, as functions of images."""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmbiformer.utils.errors import ConfigError

from .detectors import (
    Detector,
    blank,
    check_nms,
    dense_candidates,
    pick,
    suppress,
    trim,
)
from .graphs import is_overridden
from .operators import IGNORED, pyramid_roi_align


class TwoStageGraph(Detector):
    """A detector of proposals, boxes and masks: Faster and Mask R-CNN.

    Args:
        model (nn.Module): A ``TwoStageDetector`` of mmdet.

    Raises:
        ConfigError: If a part of it predicts in a way of its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        check_two_stage(model)
        self.rpn_head, self.roi_head = model.rpn_head, model.roi_head
        self.with_mask = model.roi_head.with_mask

    @property
    def output_names(self) -> Tuple[str, ...]:
        """tuple[str]: Names of the outputs."""
        return 'boxes', 'scores', 'labels', *(['masks'] * self.with_mask)

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images (Tensor): Images of shape (N, C, H, W).

        Returns:
            tuple[Tensor]: As of :class:`OneStageGraph` and, if the detector
            has masks, their probabilities (N, K, 28, 28) within the boxes.
        """
        size = images.shape[-2:]
        maps = self.extract(images)
        cfg = self.rpn_head.test_cfg
        boxes, scores, _, levels = dense_candidates(
            self.rpn_head, self.rpn_head(maps), cfg, size
        )
        kept = trim(suppress(boxes, scores, levels, cfg.nms, cfg.max_per_img))
        used, (proposals,) = pick(kept, boxes)
        used, boxes, scores, labels = self.classify(
            maps, proposals, used, size
        )
        outputs = blank(used, boxes, scores, labels)
        if not self.with_mask:
            return outputs
        masks = self.segment(maps, outputs[0], labels.clamp(min=0))
        masks = torch.where(
            used[..., None, None], masks, torch.zeros_like(masks)
        )
        return *outputs, masks

    def classify(
        self,
        maps: Sequence[Tensor],
        proposals: Tensor,
        used: Tensor,
        size: tuple,
    ) -> Tuple[Tensor, ...]:
        """Refine and classify proposals of shape (N, P, 4)."""
        head, cfg = self.roi_head.bbox_head, self.roi_head.test_cfg
        n, number = proposals.shape[:2]
        rois = _rois(proposals)
        logits, deltas = head(
            self.pool(self.roi_head.bbox_roi_extractor, maps, rois)
        )
        classes = head.num_classes
        scores = logits.softmax(-1)[:, :-1].reshape(n, number * classes)
        regressed = 1 if head.reg_class_agnostic else classes
        boxes = head.bbox_coder.decode(
            rois[:, 1:].repeat_interleave(regressed, dim=0),
            deltas.reshape(-1, 4),
            max_shape=size,
        )
        boxes = boxes.view(n, number, regressed, 4)
        boxes = boxes.expand(-1, -1, classes, -1).reshape(
            n, number * classes, 4
        )
        above = (scores > cfg.score_thr) & used.repeat_interleave(
            classes, dim=1
        )
        scores = torch.where(above, scores, torch.full_like(scores, IGNORED))
        labels = torch.arange(classes, device=scores.device)
        labels = labels.repeat(number).expand(n, -1)
        kept = trim(suppress(boxes, scores, labels, cfg.nms, cfg.max_per_img))
        used, picked = pick(kept, boxes, scores, labels)
        return used, *picked

    def segment(
        self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the masks of boxes of shape (N, K, 4)."""
        head = self.roi_head.mask_head
        extractor = self.roi_head.mask_roi_extractor
        if self.roi_head.share_roi_extractor:
            extractor = self.roi_head.bbox_roi_extractor
        masks = head(self.pool(extractor, maps, _rois(boxes)))
        if not head.class_agnostic:
            index = labels.flatten()[:, None, None, None].expand(
                -1, -1, *masks.shape[2:]
            )
            masks = masks.gather(1, index)
        n, number = boxes.shape[:2]
        return masks.sigmoid().reshape(n, number, *masks.shape[2:])

    def pool(
        self, extractor: nn.Module, maps: Sequence[Tensor], rois: Tensor
    ) -> Tensor:
        """Pool regions as mmdet's ``SingleRoIExtractor`` does."""
        maps = maps[: extractor.num_inputs]
        layers = extractor.roi_layers
        areas = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        # Without a logarithm, which runtimes round differently.
        scale = areas.clamp(min=0).sqrt() / extractor.finest_scale + 1e-6
        levels = torch.zeros_like(scale, dtype=torch.int64)
        for i in range(1, len(maps)):
            levels = levels + (scale >= 2**i)
        pooled = pyramid_roi_align(
            list(maps),
            rois,
            levels,
            list(layers[0].output_size),
            [float(layer.spatial_scale) for layer in layers],
            layers[0].sampling_ratio,
            layers[0].aligned,
        )
        shared = self.roi_head.with_shared_head
        return self.roi_head.shared_head(pooled) if shared else pooled


def _rois(boxes: Tensor) -> Tensor:
    """Turn boxes (N, K, 4) into regions (N*K, 5) with their image."""
    images = torch.arange(boxes.shape[0], device=boxes.device)
    images = images.view(-1, 1, 1).expand(-1, boxes.shape[1], 1)
    return torch.cat([images.to(boxes), boxes], -1).flatten(0, 1)


def check_two_stage(model: nn.Module) -> None:
    """Refuse two-stage detectors whose parts predict in ways of their own.

    Args:
        model (nn.Module): The detector.

    Raises:
        ConfigError: If it cannot be exported; the message names the part.
    """
    from mmcv.ops import RoIAlign
    from mmdet.models import (
        BBoxHead,
        FCNMaskHead,
        RPNHead,
        SingleRoIExtractor,
        StandardRoIHead,
    )

    if not model.with_rpn:
        raise ConfigError(
            f'{type(model).__name__} cannot be exported: it takes proposals '
            'beside the images (model.rpn_head)'
        )
    rpn, roi = model.rpn_head, model.roi_head
    parts: List[Tuple[str, Optional[nn.Module], type, Sequence[str]]] = [
        (
            'rpn_head', rpn, RPNHead,
            ('predict', 'predict_by_feat', '_predict_by_feat_single',
             '_bbox_post_process'),
        ),
        (
            'roi_head', roi, StandardRoIHead,
            ('predict', 'predict_bbox', '_bbox_forward', 'predict_mask',
             '_mask_forward'),
        ),
    ]  # fmt: skip
    if isinstance(roi, StandardRoIHead):
        parts.append(
            (
                'roi_head.bbox_head', roi.bbox_head, BBoxHead,
                ('predict_by_feat', '_predict_by_feat_single'),
            )
        )  # fmt: skip
        parts.append(
            (
                'roi_head.bbox_roi_extractor', roi.bbox_roi_extractor,
                SingleRoIExtractor, ('forward', 'map_roi_levels'),
            )
        )  # fmt: skip
        if roi.with_mask:
            parts.append(
                (
                    'roi_head.mask_head', roi.mask_head, FCNMaskHead,
                    ('predict_by_feat', '_predict_by_feat_single'),
                )
            )  # fmt: skip
            if not roi.share_roi_extractor:
                parts.append(
                    (
                        'roi_head.mask_roi_extractor', roi.mask_roi_extractor,
                        SingleRoIExtractor, ('forward', 'map_roi_levels'),
                    )
                )  # fmt: skip
    for name, part, base, methods in parts:
        if not isinstance(part, base) or is_overridden(part, base, *methods):
            raise ConfigError(
                f'{type(part).__name__} cannot be exported: it does not '
                f'predict as mmdet.models.{base.__name__} does '
                f'(model.{name})'
            )
        for layer in getattr(part, 'roi_layers', ()):
            if not isinstance(layer, RoIAlign) or layer.pool_mode != 'avg':
                raise ConfigError(
                    f'{type(layer).__name__} cannot be exported: only '
                    f'RoIAlign of means can (model.{name})'
                )
    head = roi.bbox_head
    if head.custom_cls_channels or not head.with_reg or not head.with_cls:
        raise ConfigError(
            f'{type(head).__name__} cannot be exported without its usual '
            'scores and boxes (model.roi_head.bbox_head)'
        )
    check_nms(rpn.test_cfg.get('nms'), 'model.test_cfg.rpn.nms')
    check_nms(roi.test_cfg.get('nms'), 'model.test_cfg.rcnn.nms')
