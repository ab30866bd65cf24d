"""The keyword arguments of the authors' BiFormer, and ours for each."""

from typing import Iterable

from mmbiformer.utils.errors import ConfigError

_HEAD = "remove it: it is the head's, see docs/classification.md"
_ATTN_CFG = 'attn_cfg=dict({0}=…)'
OURS = {
    'depth': 'arch=dict(depths=…)',
    'embed_dim': 'arch=dict(dims=…)',
    'head_dim': 'arch=dict(head_dim=…)',
    'mlp_ratios': 'arch=dict(mlp_ratio=…), a number or one for each stage',
    'in_chans': 'in_channels=…',
    'use_checkpoint_stages': 'with_cp=…, a list of stages or True for all',
    'pretrained': "init_cfg=dict(type='Pretrained', checkpoint=…)",
    'disable_bn_grad': (
        'norm_eval=True for their statistics, and '
        'paramwise_cfg=dict(norm_decay_mult=…, …) for their weights'
    ),
    'qk_scale': _ATTN_CFG.format('qk_scale'),
    'soft_routing': _ATTN_CFG.format('soft_routing'),
    'diff_routing': _ATTN_CFG.format('diff_routing'),
    'kv_downsample_mode': _ATTN_CFG.format('kv_downsample_mode'),
    'kv_downsample_ratios': (
        'attn_cfg=[dict(kv_downsample_ratio=…), …], one for each stage'
    ),
    'kv_per_wins': 'attn_cfg=[dict(kv_per_win=…), …], one for each stage',
    'kv_downsample_kernels': 'remove it: no released pooling reads it',
    'num_classes': _HEAD,
    'representation_size': _HEAD,
    'drop_rate': "remove it: the authors' code does not read it",
    'auto_pad': 'remove it: maps are always padded to whole regions',
    'qk_dims': 'remove it: queries and keys are as wide as the stage',
    'side_dwconv': 'remove it: the local context is always 5 x 5',
    'before_attn_dwconv': 'remove it: the position is always 3 x 3',
    'param_attention': "remove it: the layers are always 'qkvo'",
    'param_routing': 'not supported: the routing has no weights of its own',
    'pre_norm': 'not supported: the norms are always before the layers',
    'layer_scale_init_value': 'not supported: there is no layer scale',
    'mlp_dwconv': 'not supported: the MLP has no convolution',
    'norm_layer': 'not supported: the norms are those of the paper',
    'pe': 'not supported: the position is the 3 x 3 convolution',
    'pe_stages': 'not supported: the position is the 3 x 3 convolution',
}
"""dict[str, str]: For each argument of the authors' BiFormer that ours does
not have, what to write instead."""


def refuse_authors_options(names: Iterable[str]) -> None:
    """Raise an error that translates arguments of the authors' BiFormer.

    Args:
        names (Iterable[str]): Names of the arguments that were given.

    Raises:
        ConfigError: If names of the authors are among them; the message says
            what to write instead.
    """
    theirs = [f'{name}: {OURS[name]}' for name in names if name in OURS]
    if theirs:
        raise ConfigError(
            "BiFormer has other names than the authors' code for "
            + '; '.join(theirs)
        )
