"""Which models can be exported, and as what function."""

from typing import Callable, List, Optional, Tuple

from mmengine.config import Config
from torch import nn

from mmbiformer.utils.config import task_of
from mmbiformer.utils.errors import ConfigError

from .detectors import OneStageGraph
from .graphs import (
    BackboneGraph,
    ClassifierGraph,
    SegmentorGraph,
    is_overridden,
)
from .two_stage import TwoStageGraph

_Family = Callable[[nn.Module], Optional[Callable[[nn.Module], nn.Module]]]


def _segmentor(model: nn.Module) -> Optional[type]:
    """Return the graph of mmseg's segmentors."""
    from mmseg.models import EncoderDecoder

    return SegmentorGraph if isinstance(model, EncoderDecoder) else None


def _detector(model: nn.Module) -> Optional[type]:
    """Return the graph of mmdet's detectors of one or two stages."""
    from mmdet.models import SingleStageDetector, TwoStageDetector

    for kind, graph in (
        (SingleStageDetector, OneStageGraph),
        (TwoStageDetector, TwoStageGraph),
    ):
        own = type(model).predict is kind.predict
        if isinstance(model, kind) and own and _plain_features(model, kind):
            return graph
    return None


def _plain_features(model: nn.Module, kind: type) -> bool:
    """Tell whether a detector extracts features as its base class does."""
    return type(model).extract_feat is kind.extract_feat


def _classifier(model: nn.Module) -> Optional[type]:
    """Return the graph of mmpretrain's classifiers of one class per image."""
    from mmpretrain.models import ClsHead, ImageClassifier

    plain = isinstance(model, ImageClassifier) and isinstance(
        model.head, ClsHead
    )
    if (
        not plain
        or is_overridden(model, ImageClassifier, 'extract_feat', 'predict')
        or is_overridden(model.head, ClsHead, 'predict', '_get_predictions')
    ):
        return None
    return ClassifierGraph


FAMILIES: Tuple[Tuple[str, _Family], ...] = (
    ('detection', _detector),
    ('segmentation', _segmentor),
    ('classification', _classifier),
)
"""tuple: By task, what finds the graph of a model; None where there is none.
A new kind of models is a line here and a graph."""


def graph_of(
    model: nn.Module, cfg: Config, backbone: bool = False
) -> nn.Module:
    """Return a model as a function from images to tensors.

    Args:
        model (nn.Module): The model.
        cfg (Config): Its config.
        backbone (bool): Whether to take the backbone only. Default: False.

    Returns:
        nn.Module: The function, with ``output_names``.

    Raises:
        ConfigError: If the model, or a part of it, cannot be exported.
    """
    if backbone:
        return BackboneGraph(model).eval()
    task = task_of(cfg)
    for name, find in FAMILIES:
        graph = find(model) if name == task else None
        if graph is not None:
            return graph(model).eval()
    head = _head_of(model)
    raise ConfigError(
        f"{type(model).__name__}{head} cannot be exported: only mmdet's "
        "SingleStageDetector and TwoStageDetector, mmseg's EncoderDecoder and "
        "mmpretrain's ImageClassifier with a ClsHead can, all with their own "
        'predict, and of others the backbone, by --backbone'
    )


def _head_of(model: nn.Module) -> str:
    """Return the type of a model's head for messages."""
    names: List[str] = [
        type(getattr(model, name)).__name__
        for name in (
            'bbox_head',
            'panoptic_head',
            'roi_head',
            'mask_head',
            'decode_head',
            'head',
        )
        if getattr(model, name, None) is not None
    ]
    return f' with {names[0]}' if names else ''
