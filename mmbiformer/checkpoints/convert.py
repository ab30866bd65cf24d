"""Convert checkpoints of the authors' code, and strip ours to publish them.

The heads of the four recipes have kept the names of their weights and the
order of their classes from mmdet 2 to 3 and from mmseg 0 to 1: today's model
zoos offer the files of mmdet 2.0 and mmseg 0.5 for them, unchanged. What has
changed are the entries besides the weights, and the norms of outputs that a
recipe does not use, which are not built here. mmdet 1 had another order of
classes; for its files mmdet has
``tools/model_converters/upgrade_model_version.py``.
"""

import re
from typing import Dict, List, Mapping, Sequence, Tuple

from mmengine.config import Config
from mmengine.utils import digit_version

from mmbiformer.utils.config import build_model, task_of
from mmbiformer.utils.errors import CheckpointError
from mmbiformer.version import __version__

from .classifiers import name_as_mmpretrain, weights_of_authors
from .weights import NOTHING, compare_weights, state_dict_of

# Weights that may be missing, and those that may be surplus: in files of
# ImageNet, and in those of whole models.
_BACKBONE = re.compile(r'extra_norms\.'), re.compile(r'(head|norm)\.')
_CLASSIFIER = NOTHING, NOTHING
_WHOLE = NOTHING, re.compile(r'backbone\.extra_norms\.')


def convert_checkpoint(
    checkpoint: Mapping, cfg: Config, source: str
) -> Tuple[dict, Dict[str, List[str]]]:
    """Convert a checkpoint of the authors' code.

    Args:
        checkpoint (Mapping): What the file holds: ImageNet weights, or those
            of a whole detector or segmentor (mmdet 2, mmseg 0).
        cfg (Config): Config of the run that is to load the result.
        source (str): The file, for messages.

    Returns:
        tuple: The new checkpoint, and the names of all weights by what became
        of them: ``'kept'``, ``'left out'`` and ``'initial'``, which are those
        of the model that the file need not hold. A checkpoint of ImageNet is
        for the tools if the config is for classification, else for
        ``model.backbone.init_cfg``; one of a whole model is for the tools.

    Raises:
        CheckpointError: If a weight is missing, surplus or of another shape,
            or the file is one of mmdet 1.
    """
    weights = {
        name.removeprefix('module.'): value
        for name, value in state_dict_of(checkpoint, source).items()
    }
    old = checkpoint.get('meta') or {}
    if digit_version(old.get('mmdet_version', '2.0')) < digit_version('2.0'):
        raise CheckpointError(
            f'checkpoint={source!r} is of mmdet {old["mmdet_version"]}, which '
            'numbered the classes in another order; convert it by '
            "mmdet's tools/model_converters/upgrade_model_version.py first"
        )
    model = build_model(cfg)
    meta = dict(mmbiformer_version=__version__)
    if any(name.startswith('backbone.') for name in weights):
        rules = _WHOLE
        meta['cfg'] = cfg.pretty_text
        names = dict(CLASSES='classes', PALETTE='palette')
        found = {new: old[key] for key, new in names.items() if old.get(key)}
        if found:
            meta['dataset_meta'] = found
    elif task_of(cfg) == 'classification' and weights_of_authors(weights):
        rules, weights = _CLASSIFIER, name_as_mmpretrain(weights)
        meta['cfg'] = cfg.pretty_text
    else:
        rules, model = _BACKBONE, model.backbone
    own = model.state_dict()
    difference = compare_weights(weights, own, *rules)
    difference.check(source, f'config={cfg.filename!r}')
    kept = {name: weights[name] for name in own if name in weights}
    fates = {
        'kept': list(kept),
        'left out': difference.left_out,
        'initial': difference.initial,
    }
    return dict(meta=meta, state_dict=kept), fates


def strip_checkpoint(
    checkpoint: Mapping, source: str, keys: Sequence[str]
) -> Tuple[dict, List[str]]:
    """Leave out of a checkpoint what is needed only to resume a run.

    Args:
        checkpoint (Mapping): What the file holds.
        source (str): The file, for messages.
        keys (Sequence[str]): What to keep.

    Returns:
        tuple: The new checkpoint, and what was left out.

    Raises:
        CheckpointError: If it holds no weights, or lacks one of the keys.
    """
    state_dict_of(checkpoint, source)
    lacking = [key for key in keys if key not in checkpoint]
    if lacking:
        raise CheckpointError(
            f'checkpoint={source!r} lacks {lacking}; it has '
            f'{sorted(checkpoint)}'
        )
    left_out = [key for key in checkpoint if key not in keys]
    return {key: checkpoint[key] for key in keys}, left_out
