"""Checkpoints of the authors become this project's, and ours fit to publish.

The heads of the four recipes have kept their names, and the order of their
classes, from mmdet 2 to 3 and from mmseg 0 to 1: the model zoos of today hand
out the files of mmdet 2.0 and mmseg 0.5 for them, unchanged. What did change
is what lies beside the weights, and the norms of maps that a recipe does not
use, which are not built here. Reordered classes were those of mmdet 1, for
whose files mmdet has ``tools/model_converters/upgrade_model_version.py``.
"""

import re
from typing import Dict, List, Mapping, Sequence, Tuple

from mmengine.config import Config
from mmengine.utils import digit_version
from torch import Tensor

from mmbiformer.models.pretrained import state_dict_of
from mmbiformer.utils.config import build_model
from mmbiformer.utils.text import list_some
from mmbiformer.version import __version__

# Weights that may be left out, and those that may keep their initial values:
# of ImageNet's backbones, and of whole models.
_BACKBONE = re.compile(r'(head|norm)\.'), re.compile(r'extra_norms\.')
_WHOLE = re.compile(r'backbone\.extra_norms\.'), re.compile(r'(?!)')


def convert_checkpoint(
    checkpoint: Mapping, cfg: Config, source: str
) -> Tuple[dict, Dict[str, List[str]]]:
    """Convert a checkpoint of the authors' code.

    Args:
        checkpoint (Mapping): What the file holds: ImageNet weights, or those
            of a whole detector or segmentor (mmdet 2, mmseg 0).
        cfg (Config): Config of the run that is to load the result.
        source (str): What to call the file.

    Returns:
        tuple: The new checkpoint, and the names of all weights by what became
        of them: ``'kept'``, ``'left out'`` and ``'initial'``, which are those
        of the model that the file need not hold. A checkpoint of ImageNet is
        for ``model.backbone.init_cfg``, one of a whole model for the tools.

    Raises:
        ValueError: If a weight is missing, surplus or of another shape, or
            the file is one of mmdet 1.
    """
    weights = {
        name.removeprefix('module.'): value
        for name, value in state_dict_of(checkpoint, source).items()
    }
    old = checkpoint.get('meta') or {}
    if digit_version(old.get('mmdet_version', '2.0')) < digit_version('2.0'):
        raise ValueError(
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
    else:
        rules, model = _BACKBONE, model.backbone
    kept, fates = _sort_weights(weights, model.state_dict(), *rules)
    wrong = {kind: fates.pop(kind) for kind in ('missing', 'surplus', 'shape')}
    if any(wrong.values()):
        raise ValueError(
            f'checkpoint={source!r} does not fit config={cfg.filename!r}. '
            'Weights '
            + '; '.join(
                f'{kind}: {list_some(names)}'
                for kind, names in wrong.items()
                if names
            )
        )
    return dict(meta=meta, state_dict=kept), fates


def _sort_weights(
    weights: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    may_leave_out: re.Pattern,
    may_be_initial: re.Pattern,
) -> Tuple[Dict[str, Tensor], Dict[str, List[str]]]:
    """Return the weights that a model takes, and what becomes of each."""
    kept = {name: weights[name] for name in own if name in weights}
    surplus = [name for name in weights if name not in own]
    missing = [name for name in own if name not in weights]
    fates = {
        'kept': list(kept),
        'left out': [n for n in surplus if may_leave_out.match(n)],
        'initial': [n for n in missing if may_be_initial.match(n)],
        'surplus': [n for n in surplus if not may_leave_out.match(n)],
        'missing': [n for n in missing if not may_be_initial.match(n)],
        'shape': [
            f'{name} (has {tuple(value.shape)}, needs '
            f'{tuple(own[name].shape)})'
            for name, value in kept.items()
            if value.shape != own[name].shape
        ],
    }
    return kept, fates


def strip_checkpoint(
    checkpoint: Mapping, source: str, keys: Sequence[str]
) -> Tuple[dict, List[str]]:
    """Leave out of a checkpoint what only the resuming of a run needs.

    Args:
        checkpoint (Mapping): What the file holds.
        source (str): What to call the file.
        keys (Sequence[str]): What to keep.

    Returns:
        tuple: The new checkpoint, and what was left out.

    Raises:
        ValueError: If it holds no weights, or lacks one of the keys.
    """
    state_dict_of(checkpoint, source)
    lacking = [key for key in keys if key not in checkpoint]
    if lacking:
        raise ValueError(
            f'checkpoint={source!r} lacks {lacking}; it has '
            f'{sorted(checkpoint)}'
        )
    left_out = [key for key in checkpoint if key not in keys]
    return {key: checkpoint[key] for key in keys}, left_out
