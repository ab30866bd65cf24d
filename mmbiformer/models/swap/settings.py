"""The settings that replace those of a config, for BiFormer as backbone."""

from copy import deepcopy
from typing import List, NamedTuple, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmbiformer.models.biformer import BiFormer
from mmbiformer.utils.errors import ConfigError

from .probe import Map, preprocessor_of, probe_backbone, type_name
from .readers import swap_readers
from .render import name_types

STRIDES = (4, 8, 16, 32)
"""tuple[int]: Strides of BiFormer's four maps."""
_NORM_LAYERS = (
    'extra_norms',
    'norm1.weight',
    'norm1.bias',
    'norm2.weight',
    'norm2.bias',
)
"""tuple[str]: Names of BiFormer's layer norms. They are longer than
``'backbone'``, and mmengine applies the longest key that fits a parameter."""


class Swap(NamedTuple):
    """A backbone and what replaces it.

    Attributes:
        settings (dict): Settings that replace those of the config.
        notes (list[str]): Notes for the user, one sentence each.
        old (list[Map]): Maps of the old backbone.
        new (list[Map]): Maps of BiFormer that are used.
    """

    settings: dict
    notes: List[str]
    old: List[Map]
    new: List[Map]


def swap_backbone(cfg: Config, donor: Config) -> Swap:
    """Replace the backbone of a config by the BiFormer of another.

    The old backbone is built and run, to find the channels and strides of its
    maps. Each is replaced by BiFormer's map of the same stride or, where
    several have the same one (dilated or plain backbones), by position. Maps
    that no head reads are not computed. Images are padded as before: BiFormer
    takes any size, and the sizes of its maps are those of a ResNet, which the
    anchors and points of the heads are laid out for.

    Args:
        cfg (Config): Config of a detector or segmentor of mmdet or mmseg.
        donor (Config): Config of the same framework, with the BiFormer, the
            normalization of images, and the optimizer to use.

    Returns:
        Swap: The settings that replace those of ``cfg``.

    Raises:
        ConfigError: If the heads cannot read BiFormer's maps.
    """
    cfg, donor = name_types(cfg), name_types(donor)
    _check_configs(cfg, donor)
    init_default_scope(cfg.default_scope)
    old = probe_backbone(cfg)
    levels, notes = _choose_levels([one.stride for one in old])
    if notes and cfg.default_scope == 'mmdet':
        # Anchors and points are laid out by strides.
        raise ConfigError(f'{cfg.filename} cannot take BiFormer. {notes[0]}')
    dims = _dims_of(donor.model.backbone)
    new = [Map(dims[level], STRIDES[level]) for level in levels]
    readers = swap_readers(cfg, old, new)
    model = dict(readers.settings)
    model['data_preprocessor'] = _swap_preprocessor(cfg, donor)
    if 'pretrained' in cfg.model:
        model['pretrained'] = None
    model = _changes(model, cfg.model)
    backbone = dict(_delete_=True, **donor.model.backbone)
    backbone['out_indices'] = tuple(levels[i] for i in readers.read)
    model['backbone'] = backbone
    settings: dict = dict(
        custom_imports=dict(imports=[*_imports_of(cfg), 'mmbiformer']),
        model=model,
    )
    if 'optim_wrapper' in cfg:
        settings['optim_wrapper'] = _swap_optimizer(
            cfg.optim_wrapper, donor.optim_wrapper
        )
    if readers.unused:
        # The norm of that map gets no gradient.
        settings['find_unused_parameters'] = True
    if 'sync_bn' in donor:
        settings['sync_bn'] = donor.sync_bn
    notes = list(readers.notes) or notes
    return Swap(settings, notes, old, [new[i] for i in readers.read])


def _check_configs(cfg: Config, donor: Config) -> None:
    """Raise an error for configs of two frameworks, or without a backbone."""
    if cfg.default_scope != donor.default_scope:
        raise ConfigError(
            f'{cfg.filename} is for {cfg.default_scope}, and {donor.filename} '
            f'for {donor.default_scope}'
        )
    if 'backbone' not in cfg.model:
        raise ConfigError(
            f'{cfg.filename}: the model of type {type_name(cfg.model)!r} has '
            'no backbone of its own'
        )


def _imports_of(cfg: Config) -> List[str]:
    """Return the modules that a config imports."""
    imports = cfg.get('custom_imports', {}).get('imports', [])
    return [imports] if isinstance(imports, str) else imports


def _changes(new: dict, old: dict) -> dict:
    """Return the items of a dict that differ; lists are compared whole."""
    return {
        key: _changes(value, old[key])
        if isinstance(value, dict) and isinstance(old.get(key), dict)
        else value
        for key, value in new.items()
        if key not in old or value != old[key]
    }


def _dims_of(backbone: dict) -> Sequence[int]:
    """Return the channels of a BiFormer's four maps."""
    if type_name(backbone) != 'BiFormer':
        raise ConfigError(
            "the donor's backbone must be of type 'BiFormer', got "
            f'{backbone.get("type")!r}'
        )
    arch = backbone.get('arch', 'tiny')
    return (BiFormer.arch_zoo[arch] if isinstance(arch, str) else arch)['dims']


def _choose_levels(strides: List[int]) -> Tuple[List[int], List[str]]:
    """Return the BiFormer map for each stride, and notes for the user."""
    if len(set(strides)) == len(strides) and set(strides) <= set(STRIDES):
        return [STRIDES.index(stride) for stride in strides], []
    if len(strides) > len(STRIDES):
        raise ConfigError(
            f'the backbone returns {len(strides)} maps of strides {strides}, '
            f'and BiFormer {len(STRIDES)}'
        )
    levels = list(range(len(STRIDES)))[-len(strides) :]
    new = [STRIDES[level] for level in levels]
    return levels, [
        f"The old backbone's maps have strides {strides}, BiFormer's {new}: "
        'what the head predicts is coarser or finer accordingly.'
    ]


def _swap_preprocessor(cfg: Config, donor: Config) -> dict:
    """Return the settings of the images' normalization."""
    old = preprocessor_of(cfg)
    new = preprocessor_of(donor)
    settings = {key: new[key] for key in ('mean', 'std', 'bgr_to_rgb')}
    if old.get('rgb_to_bgr'):
        settings['rgb_to_bgr'] = False
    return settings


def _swap_optimizer(old: ConfigDict, donor: ConfigDict) -> dict:
    """Return the donor's optimizer, or the old one with the donor's norm rule.

    A recipe with AdamW keeps its learning rates and decay, unless a
    constructor of its own sets them by the old backbone's layers.
    """
    kept = deepcopy(old).to_dict()
    constructor = kept.pop('constructor', None)
    if constructor or type_name(kept['optimizer']) != 'AdamW':
        kept['optimizer'] = donor.optimizer.to_dict()
        kept['paramwise_cfg'] = donor.get('paramwise_cfg', {})
        return dict(_delete_=True, **kept)
    paramwise = kept.setdefault('paramwise_cfg', {})
    rules = paramwise.setdefault('custom_keys', {})
    norm = donor.get('paramwise_cfg', {}).get('custom_keys', {}).get('norm')
    if norm:
        backbone: Optional[dict] = rules.get('backbone')
        names = _NORM_LAYERS if backbone else ('norm',)
        rules.update({name: dict(backbone or {}, **norm) for name in names})
    return dict(_delete_=True, **kept)
