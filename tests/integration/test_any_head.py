"""BiFormer under heads of all kinds."""

from copy import deepcopy

import pytest
import torch
from any_head import ROOT, check_case, parameters, read_donor, swap_small
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmbiformer import BiFormer
from mmbiformer.models.swap import render_config
from mmbiformer.utils.config import read_config

SMALL_DINO = """
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(
    num_queries=30,
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
)
resize = dict(type='Resize', scale=(128, 128), keep_ratio=False)
train_dataloader = dict(dataset=dict(pipeline=[resize]))
"""


def test_the_tool_writes_a_config(tmp_path, run_tool):
    tool, out = 'model_converters/swap_backbone.py', tmp_path / 'biformer.py'
    name = tmp_path / 'dino.py'
    name.write_text(SMALL_DINO)
    run_tool(tool, name, out, '--arch', 'base')
    cfg = Config.fromfile(out)
    donor = Config.fromfile(
        ROOT / 'configs/detection/maskrcnn_biformer_base.py'
    )
    expected = dict(donor.model.backbone, out_indices=(1, 2, 3))
    assert cfg.model.backbone == expected
    assert cfg.model.neck.in_channels == [192, 384, 768]
    assert cfg.model.data_preprocessor.pad_size_divisor == 1
    init_default_scope('mmdet')
    # The rates and decay of DINO's own recipe, but for the norms.
    model = torch.nn.Module()
    model.backbone = MODELS.build(read_donor('mmdet').model.backbone)
    model.head = torch.nn.Linear(1, 1)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(value): name for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        (name,) = (names[id(value)] for value in group['params'])
        assert group['weight_decay'] == (0 if 'norm' in name else 1e-4), name
        assert group['lr'] == pytest.approx(
            1e-5 if name.startswith('backbone') else 1e-4
        )
    before = out.read_text()
    again = run_tool(tool, name, out, check=False)
    assert again.returncode == 1
    assert '--force' in again.stderr
    assert out.read_text() == before


@pytest.mark.slow
def test_every_arch_can_be_swapped_in(tmp_path, run_tool):
    out = tmp_path / 'out.py'
    name = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    tool = 'model_converters/swap_backbone.py'
    run_tool(tool, name, out, '--arch', 'stl')
    arch = read_config(str(out)).model.backbone.arch
    assert arch.layout == 'stl'
    assert tuple(arch.depths) == BiFormer.arch_zoo['stl']['depths']


def test_losses_are_those_of_the_old_backbone_for_equal_maps(monkeypatch):
    # YOLACT lays its anchors out for maps of images of 550 px.
    name, side = 'mmdet::yolact/yolact_r50_1xb8-55e_coco.py', 550
    cfg = get_config(name)
    settings = swap_small(cfg).settings
    merged = Config.fromstring(render_config(cfg, name, settings), '.py')
    init_default_scope('mmdet')
    cfg.model.backbone.init_cfg = None
    old, new = (MODELS.build(one.model) for one in (cfg, merged))
    inputs = demo_mm_inputs(
        1, [(3, side, side)], num_items=[3], with_mask=True
    )
    losses = []
    for model in (old, new):
        model.init_weights()
        data = model.data_preprocessor(deepcopy(inputs), True)
        with torch.no_grad():
            sizes = [x.shape[-2:] for x in model.extract_feat(data['inputs'])]
        torch.manual_seed(0)
        maps = [torch.randn(1, 256, *size) for size in sizes]
        monkeypatch.setattr(model, 'extract_feat', lambda _, maps=maps: maps)
        model.bbox_head.load_state_dict(old.bbox_head.state_dict())
        model.mask_head.load_state_dict(old.mask_head.state_dict())
        torch.manual_seed(0)
        losses.append(model.loss(data['inputs'], data['data_samples']))
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, msg=key)


@pytest.mark.parametrize('case', parameters('quick', 'ci'))
def test_what_comes_of_each_config(case, rows):
    check_case(case, rows)
