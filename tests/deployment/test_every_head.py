"""What swap_backbone.py writes is exported as it predicts, or refused."""

import warnings

import pytest
from any_head import (
    SIDES,
    build_merged,
    merge_small,
    parameters,
    read,
    swap_small,
)
from exported import randomize

from mmbiformer.deployment.export import Options, write_verified
from mmbiformer.deployment.families import graph_of
from mmbiformer.deployment.tracing import Sizes
from mmbiformer.utils.errors import ConfigError

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
NAMES = dict(classes=['thing'] * 150, palette=[[0, 0, 0]] * 150)


def outcome(case, path):
    """Export a config with a small BiFormer, and return what comes of it.

    Args:
        case (Case): The config.
        path (Path): File to write.

    Returns:
        str: ``'exported'``, or why not.
    """
    cfg = read(case.name)
    swap = swap_small(cfg)
    folder = case.name.partition('::')[2].partition('/')[0]
    merged = merge_small(cfg, swap, SIDES.get(folder, 96))
    merged.default_scope = cfg.default_scope
    model = randomize(build_merged(cfg, merged)).eval()
    try:
        graph_of(model, merged)
    except ConfigError as error:
        return str(error).partition(' (model')[0].partition(', got')[0]
    side = SIDES.get(folder)
    sizes = Sizes(None, side, side) if side else Sizes()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        write_verified(merged, model, NAMES, None, path, Options(sizes))
    return 'exported'


@pytest.mark.slow
@pytest.mark.parametrize(
    'case',
    [
        one
        for one in parameters('quick', 'ci')
        if not (one.values[0].refused or one.values[0].needs)
    ],
)
def test_heads(case, tmp_path):
    result = outcome(case, tmp_path / 'model.onnx')
    print(f'| `{case.name}` | {result} |')
    assert result == 'exported' or 'cannot be exported' in result
