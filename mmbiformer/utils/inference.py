"""One image through a detector or segmentor of a config."""

from copy import deepcopy
from typing import Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.structures import BaseDataElement
from torch import nn

from mmbiformer.checkpoints.io import load_checkpoint
from mmbiformer.checkpoints.strict import strict_loading
from mmbiformer.checkpoints.weights import load_all_weights

from .config import check_pretrained
from .files import check_checkpoint


def check_device(device: str) -> None:
    """Check that a device is there.

    Args:
        device (str): Its name, such as ``'cuda:0'``.

    Raises:
        RuntimeError: If it cannot be used.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise RuntimeError(
            f'device={device!r} cannot be used: {error}'
        ) from None


def load_weights(
    model: nn.Module, cfg: Config, checkpoint: Optional[str] = None
) -> dict:
    """Give a model its weights.

    Args:
        model (nn.Module): Model of the config; changed in place.
        cfg (Config): Its config.
        checkpoint (str, optional): Path or URL of its weights. Default: None,
            which initializes them as the config says.

    Returns:
        dict: What the checkpoint tells of its training, such as the names of
        the classes; nothing without a checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint, or one that the config starts
            from, is not there.
        CheckpointError: If it cannot be read, or is of another model.
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
        ValueError: If the config has no test data set.
    """
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            f'{cfg.filename} has no test_dataloader, whose pipeline says how '
            'to prepare an image'
        )
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset:
        dataset = dataset['dataset' if 'dataset' in dataset else 'datasets']
        dataset = dataset[0] if isinstance(dataset, list) else dataset
    dataset = deepcopy(dataset)
    dataset.pipeline = [
        step for step in dataset.pipeline if 'Annotations' not in step.type
    ]
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
        ValueError: If the config has no test pipeline.
    """
    pipeline = Compose(image_dataset(cfg).pipeline)
    data = pipeline(dict(img_path=image, img_id=0))
    return model.test_step({key: [value] for key, value in data.items()})[0]
