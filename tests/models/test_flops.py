"""Parameters and multiply-adds, against counts by hand."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from mmbiformer.models import BiFormer
from mmbiformer.models.flops import (
    count_backbone,
    count_classifier_head,
    total,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/detection/maskrcnn_biformer_digits.py'
TOOL = ROOT / 'tools/analysis_tools/get_flops.py'


@pytest.fixture
def run_tool_here(monkeypatch, capsys):
    """Run the tool in this process, which has imported the frameworks."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


def count_by_hand(arch, n_win, topks, shape):
    """The multiply-adds of each stage, and of the norms of the outputs."""
    depths, dims = arch['depths'], arch['dims']
    height, width = shape
    stages, norms = [], 0
    for i, (depth, dim, topk) in enumerate(
        zip(depths, dims, topks, strict=True)
    ):
        height, width = -(-height // 2), -(-width // 2)
        count = 0
        if i == 0:
            # 27 multiply-adds for each value; 2 more in its batch norm.
            count += height * width * dim // 2 * (27 + 2)
            height, width = -(-height // 2), -(-width // 2)
            count += height * width * dim * (9 * dim // 2 + 2)
        else:
            count += height * width * dim * (9 * dims[i - 1] + 2)
        tokens = height * width
        # Two layer norms of 5 for each value, and depthwise 3 x 3.
        block = tokens * dim * (5 + 5 + 9)
        block += tokens * dim * 3 * dim * 2
        if topk == 0:
            block += tokens * dim * (2 * dim + 25)
        elif topk in (-1, -2):
            block += tokens * 3 * dim * dim + tokens * dim * dim
            block += 2 * tokens * tokens * dim
            block += tokens * dim * 25 * (topk == -2)
        else:
            region = -(-height // n_win) * -(-width // n_win)
            regions = n_win * n_win
            padded = regions * region
            block += padded * 3 * dim * dim + tokens * dim * dim
            block += regions * regions * dim
            block += padded * (topk * region) * dim * 2
            block += padded * dim * 25
        stages.append(count + depth * block)
        norms += 5 * tokens * dim
    return [*stages, norms]


@pytest.mark.parametrize('backend', ['auto', 'sdpa', 'reference'])
@pytest.mark.parametrize(
    ('shape', 'n_win', 'topks'),
    [
        ((224, 224), 7, (1, 4, 16, -2)),
        ((100, 132), 8, (1, 4, 16, -2)),
        ((75, 64), 3, (2, 9, 5, 4)),
        ((64, 64), 2, (0, 3, -1, -2)),
    ],
)
def test_every_backend_counts_as_by_hand(shape, n_win, topks, backend):
    arch = dict(depths=(1, 2, 1, 1), dims=(32, 64, 128, 256))
    backbone = BiFormer(arch, n_win, topks, attn_backend=backend)
    parts = count_backbone(backbone, shape)
    assert [part.flops for part in parts] == count_by_hand(
        arch, n_win, topks, shape
    )
    params = sum(p.numel() for p in backbone.parameters())
    assert total(parts).params == params


@pytest.mark.parametrize('backend', ['sdpa', 'reference'])
def test_options_count_as_by_hand(backend):
    """Four keys and values in each region instead of 4 x 4."""
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 256))

    def count(topks=(3, 0, 0, -1), **attn_cfg):
        backbone = BiFormer(
            arch, 4, topks, attn_backend=backend, attn_cfg=attn_cfg
        )
        return count_backbone(backbone, (64, 64))[0].flops

    plain = count()
    assert count(soft_routing=True, diff_routing=True) == plain
    fewer = 2 * 16 * 16 * (3 * 16 - 3 * 4) * 32
    count_pooled = count(kv_downsample_mode='maxpool', kv_downsample_ratio=2)
    assert count_pooled == plain - fewer
    # mmengine counts adaptive averages, one for each value.
    count_pooled = count(kv_downsample_mode='ada_avgpool', kv_per_win=2)
    assert count_pooled == plain - fewer + 2 * 16 * 16 * 32


def test_backbone_of_four_channels_is_counted():
    arch = dict(depths=(1, 1, 1, 1), dims=(32, 64, 128, 256))
    three, four = (
        count_backbone(
            BiFormer(arch, out_indices=0, in_channels=channels), (64, 64)
        )
        for channels in (3, 4)
    )
    assert four[0].flops - three[0].flops == 32 * 32 * 16 * 9


@pytest.mark.parametrize(
    ('arch', 'params', 'flops'),
    [
        ('tiny', 13.1, 2.2),
        ('small', 25.5, 4.5),
        ('base', 56.8, 9.8),
        ('stl', 28.4, 4.6),
    ],
)
def test_classification_networks_have_the_papers_figures(arch, params, flops):
    """Table 1 of the paper, and the authors' README."""
    backbone = BiFormer(arch, n_win=7)
    *stages, _ = count_backbone(backbone, (224, 224))
    dim = backbone.arch_zoo[arch]['dims'][-1]
    whole = total([*stages, count_classifier_head(dim, (224, 224))])
    assert round(whole.params / 1e6, 1) == params
    assert round(whole.flops / 1e9, 1) == flops


def read_tables(text):
    """Return the rows of each printed table, by their names."""
    tables = []
    for line in text.splitlines():
        if line.endswith('FLOPs (G)'):
            tables.append({})
        elif len(parts := re.split(' {2,}', line)) == 3:
            tables[-1][parts[0]] = parts[1:]
    return tables


def test_tool_prints_both_forms(run_tool):
    result = run_tool('analysis_tools/get_flops.py', '--arch', 'tiny')
    classification, dense = read_tables(result.stdout)
    assert classification['total'] == ['13.14', '2.23']
    assert dense['total'] == ['12.63', '2.23']
    assert classification['stage 3'] == dense['stage 3']


def test_tool_counts_a_detector(run_tool_here):
    text = run_tool_here(CONFIG, '--shape', 64, 90)
    assert 'image (64, 90), padded by the model to (64, 96)' in text
    model, backbone = read_tables(text)
    assert list(model) == ['backbone', 'neck', 'rpn_head', 'roi_head', 'total']
    assert model['backbone'] == backbone['total']


def test_tool_counts_a_segmentor_without_biformer(run_tool_here):
    (model,) = read_tables(
        run_tool_here(
            'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
            '--shape', 64,
        )
    )  # fmt: skip
    assert list(model) == ['backbone', 'neck', 'decode_head', 'total']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'either a config or --arch'),
        (['missing.py'], "config='missing.py' is not a file"),
        (['mmdet::missing.py'], "config='mmdet::missing.py'"),
        ([CONFIG, '--shape', 1], '--shape 1'),
        (['--arch', 'tiny', '--n-win', 0], 'n_win=0'),
    ],
)
def test_tool_names_bad_input(arguments, message, run_tool_here, capsys):
    with pytest.raises(SystemExit) as end:
        run_tool_here(*arguments)
    assert message in str(end.value) + capsys.readouterr().err
