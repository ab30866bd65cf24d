"""What a file says of itself, beside the graph."""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch
from mmengine.config import Config

from mmbiformer.utils.config import task_of
from mmbiformer.utils.errors import CheckpointError
from mmbiformer.version import __version__

KEY = 'mmbiformer'
"""str: Key of the metadata in a file; the value is JSON."""
FORMAT = 1
"""int: Version of what stands there."""
CONFIG_KEYS = (
    'default_scope',
    'env_cfg',
    'log_level',
    'log_processor',
    'default_hooks',
    'visualizer',
    'vis_backends',
    'test_cfg',
    'test_dataloader',
    'test_evaluator',
)
"""tuple[str]: Settings of a config that testing reads, kept in a file."""


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it; classes become their names."""
    if isinstance(value, dict):
        return {
            str(key): one.__name__
            if key == 'type' and isinstance(one, type)
            else _plain(one)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    sha = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            sha.update(block)
    return sha.hexdigest()


def describe(
    cfg: Config,
    model: torch.nn.Module,
    outputs: Sequence[str],
    dataset_meta: Dict[str, Any],
    sizes: Dict[str, Optional[int]],
    attention: str,
    checkpoint: Optional[Path],
) -> Dict[str, Any]:
    """Return the metadata of a file.

    Args:
        cfg (Config): Config of the model.
        model (nn.Module): The model.
        outputs (Sequence[str]): Names of the outputs.
        dataset_meta (dict): Classes and palette.
        sizes (dict): ``batch``, ``height`` and ``width`` of the input; None
            is any.
        attention (str): Form of routed attention.
        checkpoint (Path, optional): File of the weights, None for none.

    Returns:
        dict: What JSON can hold.
    """
    task = task_of(cfg)
    if 'map0' in outputs:
        kind = 'backbone'
    elif task == 'segmentation':
        kind = 'semantic segmentation'
    elif task == 'classification':
        kind = 'image classification'
    else:
        masks = 'masks' in outputs
        kind = 'instance segmentation' if masks else 'object detection'
    versions: Dict[str, str] = dict(
        mmbiformer=__version__, torch=torch.__version__
    )
    post: Dict[str, Any] = {}
    if 'masks' in outputs:
        post['mask_threshold'] = model.roi_head.test_cfg.mask_thr_binary
    if kind == 'semantic segmentation':
        post['align_corners'] = bool(model.align_corners)
        if model.out_channels == 1:
            post['threshold'] = model.decode_head.threshold
    return _plain(
        dict(
            format=FORMAT,
            task=kind,
            model=type(model).__name__,
            classes=dataset_meta['classes'],
            palette=dataset_meta['palette'],
            input=dict(
                name='images',
                layout='NCHW',
                type='float32',
                range=[0, 255],
                # As mmcv reads images; the graph swaps them if the model asks.
                colors='BGR',
                **sizes,
            ),
            outputs=list(outputs),
            n_win=_n_win(model),
            attention=attention,
            postprocessing=post,
            test_pipeline=_pipeline(cfg),
            versions=versions,
            checkpoint=checkpoint and checkpoint.name,
            checkpoint_sha256=checkpoint and digest(checkpoint),
            config={key: cfg[key] for key in CONFIG_KEYS if key in cfg},
        )
    )


def _n_win(model: torch.nn.Module) -> Optional[int]:
    """Return the regions per side of the first routed layer, if any."""
    for module in model.modules():
        if hasattr(module, 'n_win'):
            return module.n_win
    return None


def _pipeline(cfg: Config) -> List[dict]:
    """Return the steps from a file to the input."""
    from mmbiformer.inference.inferencer import image_dataset

    return list(image_dataset(cfg).pipeline)


def parse(text: Optional[str], path: str) -> Dict[str, Any]:
    """Return the metadata that a file holds.

    Args:
        text (str, optional): What stands under :data:`KEY`.
        path (str): The file, for messages.

    Returns:
        dict: The metadata.

    Raises:
        CheckpointError: If there are none, or of another version.
    """
    try:
        found = json.loads(text or '')
        version = found['format']
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f'model={path!r} was not written by tools/deployment/export.py: '
            'it has no metadata of mmbiformer, which say how to prepare '
            'images and what the outputs mean'
        ) from None
    if version != FORMAT:
        raise CheckpointError(
            f'model={path!r} has metadata of version {version}, this '
            f'mmbiformer reads version {FORMAT}: export the model again'
        )
    return found
