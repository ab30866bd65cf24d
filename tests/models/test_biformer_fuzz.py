"""The backbone on shapes and settings, and its config, beyond examples."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS
from shipped import CONFIGS

from mmbiformer import BiFormer
from mmbiformer.models.stage import GLOBAL_ATTENTION
from mmbiformer.ops.backends import native

BACKENDS = ['sdpa'] + ['native'] * native.is_available()
# Heads of 16 channels: what the compiled backend takes, at the least cost.
ARCH = dict(depths=(1, 1, 1, 1), dims=(16, 32, 16, 16), head_dim=16)


@st.composite
def cases(draw, longest):
    """Draw settings of a backbone, and the shape of a batch for it."""
    n_win = draw(st.integers(1, 10))
    topk = st.integers(GLOBAL_ATTENTION, n_win**2)
    indices = draw(st.sets(st.integers(0, 3), min_size=1))
    side = st.integers(1, longest)
    return dict(
        n_win=n_win,
        topks=draw(st.tuples(topk, topk, topk, topk)),
        out_indices=tuple(sorted(indices)),
        frozen_stages=draw(st.integers(-1, 4)),
        norm_eval=draw(st.booleans()),
    ), (draw(st.integers(1, 3)), 3, draw(side), draw(side))


def set_backend(model, backend):
    for module in model.modules():
        if hasattr(module, 'attn_backend'):
            module.attn_backend = backend


def check(case):
    """Shapes are right, values finite, and all backends agree."""
    arguments, shape = case
    torch.manual_seed(sum(shape))
    model = BiFormer(ARCH, attn_backend='reference', **arguments).double()
    model.init_weights()
    x = torch.rand(shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.eval()(x)
        indices = arguments['out_indices']
        assert len(expected) == len(indices)
        for i, out in zip(indices, expected, strict=True):
            sides = [math.ceil(side / (4 * 2**i)) for side in shape[2:]]
            assert out.shape == (shape[0], ARCH['dims'][i], *sides)
            assert out.isfinite().all()
        for backend in BACKENDS:
            set_backend(model, backend)
            for out, wanted in zip(model(x), expected, strict=True):
                torch.testing.assert_close(out, wanted, rtol=1e-8, atol=1e-8)
    set_backend(model, 'auto')
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    norm = model.downsample_layers[-1][-1]
    # One value a channel has no variance.
    if norm.training and shape[0] == 1 and max(sides) == 1:
        with pytest.raises(ValueError, match='batch norms'):
            model(x)
    elif trained:
        sum(out.square().mean() for out in model(x)).backward()
        assert all(p.grad.isfinite().all() for p in trained)
        frozen = set(model.parameters()) - set(trained)
        assert all(p.grad is None for p in frozen)


@given(cases(longest=96))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_shapes_and_settings(case):
    check(case)


@pytest.mark.slow
@given(cases(longest=300))
@settings(
    max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_many_shapes_and_settings(case):
    check(case)


WRONG = ('x', None, 2.5, -7, 0, True, [], {}, ['x'], [None], [0.5] * 4)
WRONG += (float('nan'), float('inf'), [1, 2], [-1] * 4, (True,) * 4, object())

# Of these, what is right for a key besides its default.
RIGHT = {
    'topks': (None,),
    'out_indices': ([1, 2], 0),
    'drop_path_rate': (0,),
    'frozen_stages': (0,),
    'norm_eval': (True,),
    'with_cp': (True, [], [1, 2]),
    'attn_cfg': (None, {}),
    'qk_scale': (None, 2.5),
    'soft_routing': (True,),
    'init_cfg': (None,),
    'mlp_ratio': (2.5, [0.5] * 4),
    # Names and paths are looked up where they are used, and named there.
    'checkpoint': ('x',),
    'init_cfg.type': ('x',),
}
# Optional settings that no shipped config names.
OPTIONAL = dict(
    topks=(1, 4, 16, -2),
    out_indices=(0, 1, 2, 3),
    frozen_stages=-1,
    norm_eval=False,
    with_cp=False,
    attn_backend='auto',
    drop_path_rate=0.1,
    in_channels=3,
    attn_cfg=dict(qk_scale=0.1, soft_routing=False, diff_routing=False),
    final_norm=False,
)


DEFAULTS = {*OPTIONAL, *OPTIONAL['attn_cfg'], 'arch', 'n_win', 'init_cfg'}
DEFAULTS |= {'head_dim', 'mlp_ratio', 'layout'}
QUICK = ('maskrcnn_biformer_digits', 'sfpn_biformer')


def paths(node, prefix=()):
    """Yield the path of each key of nested dicts."""
    for key, value in node.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


def parent(config, path):
    for key in path[:-1]:
        config = config[key]
    return config


def shipped(path):
    """The backbone of a config, with every optional setting, and small."""
    backbone = Config.fromfile(path).model.backbone.to_dict()
    backbone = {**OPTIONAL, **backbone}
    backbone['arch']['depths'] = (1, 1, 1, 1)
    backbone['arch'].setdefault('layout', 'biformer')
    return backbone


def is_right(path, value):
    if path[-1] == 'type' and len(path) == 1:
        return False
    rights = RIGHT.get('.'.join(path), RIGHT.get(path[-1], ()))
    return any(type(one) is type(value) and one == value for one in rights)


def complaint(config):
    """Return what building says, or None where it builds."""
    try:
        with torch.device('meta'):
            MODELS.build(config)
    except (KeyError, TypeError, ValueError) as error:
        return str(error)
    return None


def changes(backbone):
    """Yield each path, what becomes of it, whether that is right, and it all.

    A key is left out, misspelt, or of a wrong type.
    """
    for path in paths(backbone):
        changed = copy.deepcopy(backbone)
        value = parent(changed, path).pop(path[-1])
        yield path, 'left out', path[-1] in DEFAULTS, changed
        changed = copy.deepcopy(changed)
        parent(changed, path)[path[-1] + 'X'] = value
        yield path, 'misspelt', False, changed
        for value in WRONG:
            changed = copy.deepcopy(backbone)
            parent(changed, path)[path[-1]] = value
            yield path, value, is_right(path, value), changed


@pytest.mark.parametrize(
    'config',
    [
        pytest.param(
            path, id=path.stem,
            marks=[] if path.stem in QUICK else pytest.mark.slow,
        )
        for path in CONFIGS
        if 'biformer' in path.stem and path.parent.name != 'classification'
    ],
)  # fmt: skip
def test_a_key_less_or_of_another_type(config):
    """The error names the key, or the key has a default."""
    backbone = shipped(config)
    failures, tried = [], 0
    for path, what, right, changed in changes(backbone):
        message = complaint(changed)
        tried += 1
        if right or message is None:
            named = right and message is None
        else:
            # mmengine names the value where a type is not registered.
            named = path[-1] in message or (
                path == ('type',) and str(what) in message
            )
        if not named:
            failures.append((path, what, message))
    assert not failures
    assert tried == len(list(paths(backbone))) * (len(WRONG) + 2)
