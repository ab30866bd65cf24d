"""Images through the model of a config."""

import contextlib
import logging
import warnings
from copy import deepcopy
from typing import Iterator, Optional, Union

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.infer import BaseInferencer
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch import nn

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.strict import strict_loading
from mmbiformer.checkpoints.weights import load_all_weights
from mmbiformer.utils.config import check_pretrained, task_of, type_name
from mmbiformer.utils.datasets import leaf_settings
from mmbiformer.utils.errors import ConfigError
from mmbiformer.utils.files import check_checkpoint

from .classifier import FileClassifier

_VISUALIZERS = dict(
    classification='UniversalVisualizer',
    detection='DetLocalVisualizer',
    segmentation='SegLocalVisualizer',
)


def check_device(device: str) -> None:
    """Check that a device can be used.

    Args:
        device (str): Its name, such as ``'cuda:0'``.

    Raises:
        ConfigError: If it cannot.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f'device={device!r} cannot be used: {error}'
        ) from None


def load_weights(
    model: nn.Module, cfg: Config, checkpoint: Optional[str] = None
) -> dict:
    """Load or initialize the weights of a model.

    Args:
        model (nn.Module): Model of the config; changed in place.
        cfg (Config): Its config.
        checkpoint (str, optional): Path or URL of its weights. Default: None,
            which initializes them as the config says.

    Returns:
        dict: The ``meta`` of the checkpoint, such as the names of the
        classes; empty without a checkpoint.

    Raises:
        UserError: If the checkpoint, or one that the config starts from, does
            not exist, cannot be read, or is of another model.
    """
    if checkpoint is None:
        check_pretrained(cfg)
        with strict_loading():
            model.init_weights()
        return {}
    check_checkpoint(checkpoint)
    loaded = load_checkpoint(checkpoint, 'cpu')
    load_all_weights(model, loaded, checkpoint)
    return loaded.get('meta') or {}


def image_dataset(cfg: Config) -> ConfigDict:
    """Return the test data set of a config, to load images only.

    Args:
        cfg (Config): Config of a run.

    Returns:
        ConfigDict: The settings of the data set, or of the first if it is
        made of several; its pipeline loads no annotations.

    Raises:
        ConfigError: If the config has no test data set.
    """
    if cfg.get('test_dataloader') is None:
        raise ConfigError(
            f'{cfg.filename} has no test_dataloader, whose pipeline says how '
            'to prepare an image'
        )
    dataset = deepcopy(next(leaf_settings(cfg.test_dataloader.dataset)))
    dataset.pipeline = [
        step
        for step in dataset.pipeline
        if 'Annotations' not in type_name(step.type)
    ]
    for step in dataset.pipeline:
        # mmseg looks for this step by its name, also in pure Python configs.
        if type_name(step.type) == 'LoadImageFromFile':
            step.type = 'LoadImageFromFile'
    return dataset


@torch.no_grad()
def predict(model: nn.Module, cfg: Config, image: str) -> BaseDataElement:
    """Predict one image file as in testing.

    Args:
        model (nn.Module): Model of the config.
        cfg (Config): Its config.
        image (str): Path of the image.

    Returns:
        BaseDataElement: The data sample with predictions and, in its
        ``metainfo``, how the image was prepared.

    Raises:
        ConfigError: If the config has no test pipeline.
    """
    pipeline = Compose(image_dataset(cfg).pipeline)
    data = pipeline(dict(img_path=image, img_id=0))
    return model.test_step({key: [value] for key, value in data.items()})[0]


def build_inferencer(
    cfg: Config, checkpoint: str, device: str
) -> Union[BaseInferencer, FileClassifier]:
    """Build the inferencer of a config, with weights and classes that fit.

    By themselves, mmdet's and mmseg's keep random weights where a checkpoint
    lacks some, and take COCO's or Cityscapes' classes where it names none.

    Args:
        cfg (Config): Config of a run.
        checkpoint (str): Path or URL of the model's weights.
        device (str): Where to predict.

    Returns:
        BaseInferencer | FileClassifier: ``mmdet.apis.DetInferencer``,
        ``mmseg.apis.MMSegInferencer`` or, for mmpretrain's models, what is
        called as these are.

    Raises:
        UserError: If the device cannot be used, the weights do not fit, the
            config has no test data set, or nothing names the classes.
    """
    check_device(device)
    with quiet():
        inferencer = inferencer_of(cfg, device)
        meta = load_weights(inferencer.model, cfg, checkpoint)
    set_classes(inferencer, dataset_meta(inferencer.cfg, meta, checkpoint))
    return inferencer


def inferencer_of(
    cfg: Config, device: str
) -> Union[BaseInferencer, FileClassifier]:
    """Build the inferencer of a config, without weights and classes.

    Args:
        cfg (Config): Config of a run.
        device (str): Where to predict.

    Returns:
        BaseInferencer: See :func:`build_inferencer`.

    Raises:
        ConfigError: If the config has no test data set.
    """
    cfg = deepcopy(cfg)
    cfg.test_dataloader.dataset = image_dataset(cfg)
    task = task_of(cfg)
    cfg.setdefault('visualizer', dict(type=_VISUALIZERS[task]))
    cfg.visualizer.vis_backends = None
    # A user may have installed only one of them.
    if task == 'classification':
        return FileClassifier(cfg, device)
    if task == 'detection':
        from mmdet.apis import DetInferencer

        return DetInferencer(cfg, device=device, palette='random')
    from mmseg.apis import MMSegInferencer

    return MMSegInferencer(cfg, device=device)


def set_classes(
    inferencer: Union[BaseInferencer, FileClassifier], meta: dict
) -> None:
    """Name the classes in pictures and predictions.

    Args:
        inferencer (BaseInferencer): The inferencer; changed in place.
        meta (dict): ``classes`` and ``palette``.
    """
    inferencer.model.dataset_meta = meta
    inferencer.visualizer.dataset_meta = meta


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, and what mmengine logs below errors."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def dataset_meta(cfg: Config, meta: dict, checkpoint: str) -> dict:
    """Return classes and palette of the checkpoint or the data set.

    Args:
        cfg (Config): Config of a run.
        meta (dict): The ``meta`` of the checkpoint.
        checkpoint (str): Its path, for messages.

    Returns:
        dict: ``classes`` and ``palette``, a colour for each.

    Raises:
        ConfigError: If neither names the classes.
    """
    found = {
        key.lower(): value
        for key, value in (meta.get('dataset_meta') or {}).items()
    }
    if not found.get('classes'):
        dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
        found = DATASETS.build(dataset).metainfo
    classes = found.get('classes')
    if not classes:
        raise ConfigError(
            f'neither checkpoint={checkpoint!r} nor the test data set of '
            f'{cfg.filename} names the classes; set them by --cfg-options '
            'test_dataloader.dataset.metainfo.classes="(NAME,NAME)"'
        )
    palette = found.get('palette') or ()
    if isinstance(palette, str) or len(palette) < len(classes):
        random = np.random.RandomState(42)
        palette = random.randint(0, 256, (len(classes), 3)).tolist()
    return dict(classes=tuple(classes), palette=palette[: len(classes)])
