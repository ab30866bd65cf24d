"""Exported files in the tools that predict and test."""

from typing import Union

from mmengine.config import Config
from mmengine.infer import BaseInferencer

from mmbiformer.inference.classifier import FileClassifier
from mmbiformer.inference.inferencer import inferencer_of, quiet, set_classes

from .models import dataset_meta_of


def build_exported_inferencer(
    cfg: Config,
) -> Union[BaseInferencer, FileClassifier]:
    """Build an inferencer that predicts by an exported file.

    Args:
        cfg (Config): See :func:`mmbiformer.deployment.models.config_of`.

    Returns:
        BaseInferencer | FileClassifier: As
        :func:`mmbiformer.inference.inferencer.build_inferencer` returns it.
    """
    with quiet():
        inferencer = inferencer_of(cfg, 'cpu')
    # Without a checkpoint, mmdet's takes the classes of COCO.
    set_classes(inferencer, dataset_meta_of(inferencer.model.metadata))
    return inferencer
