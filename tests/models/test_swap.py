"""Swapping backbones in configs that tests write themselves."""

import pytest
import torch
from any_head import read_donor
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmbiformer.models.swap import render_config, swap_backbone, try_swap
from mmbiformer.utils.config import read_config
from mmbiformer.utils.errors import ConfigError

# As those that mmdet has in mmdet/configs, which its wheels leave out.
PURE_PYTHON = """
from mmcv.transforms import Resize
from mmdet.models import FCOS, FPN, DetDataPreprocessor, FCOSHead, ResNet
from mmengine.optim import OptimWrapper
from torch.nn import BatchNorm2d
from torch.optim import SGD

default_scope = None
model = dict(
    type=FCOS,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[102.9801, 115.9465, 122.7717],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=ResNet,
        depth=18,
        norm_cfg=dict(type=BatchNorm2d, requires_grad=False),
    ),
    neck=dict(
        type=FPN,
        in_channels=[64, 128, 256, 512],
        out_channels=32,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
    ),
    bbox_head=dict(
        type=FCOSHead,
        num_classes=3,
        in_channels=32,
        feat_channels=32,
        stacked_convs=1,
    ),
    test_cfg=dict(nms_pre=10, score_thr=0.05, max_per_img=5),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
resize = dict(type=Resize, scale=(128, 128), keep_ratio=False)
train_dataloader = dict(dataset=dict(pipeline=[resize]))
"""


class Floored(torch.nn.Module):
    """A backbone whose maps are smaller by what is left over of a stride."""

    def __init__(self, init_cfg=None):
        super().__init__()

    def forward(self, x):
        """Return maps of strides 8, 16 and 32."""
        return tuple(
            x.new_zeros(len(x), 8 * i, *(side // 4 // 2**i for side in size))
            for size in [x.shape[-2:]]
            for i in (1, 2, 3)
        )


@pytest.fixture
def pure_python(tmp_path):
    path = tmp_path / 'fcos.py'
    path.write_text(PURE_PYTHON)
    return str(path)


def test_pure_python_configs(pure_python, tmp_path):
    cfg = read_config(pure_python)
    swap = swap_backbone(cfg, read_donor('mmdet'))
    assert try_swap(cfg, swap) == []
    out = tmp_path / 'biformer.py'
    out.write_text(render_config(cfg, pure_python, swap.settings))
    written = read_config(str(out))
    assert written.default_scope == 'mmdet'
    assert written.model.neck.in_channels == [64, 96, 128]
    assert written.optim_wrapper.optimizer.type == 'AdamW'
    init_default_scope('mmdet')
    model = MODELS.build(written.model)
    assert type(model).__name__ == 'FCOS'
    maps = model.extract_feat(torch.rand(1, 3, 64, 64))
    assert [x.shape[-1] for x in maps] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(('side', 'allowed'), [(544, True), (550, False)])
def test_maps_of_other_sizes_are_refused(pure_python, side, allowed):
    cfg = read_config(pure_python)
    cfg.model.backbone = dict(type=Floored)
    cfg.model.neck.update(in_channels=[8, 16, 24], start_level=0)
    cfg.train_dataloader.dataset.pipeline[0].scale = (side, side)
    if allowed:
        swap_backbone(cfg, read_donor('mmdet'))
        return
    with pytest.raises(ConfigError, match='550 x 550'):
        swap_backbone(cfg, read_donor('mmdet'))


class Unusual(torch.nn.Module):
    """A backbone that needs what is not there."""

    def __init__(self, package, init_cfg=None):
        super().__init__()
        if package:
            raise RuntimeError(f'{package} is not installed,\n  install it')

    def forward(self, x, text):
        """Return nothing without a text."""


@pytest.mark.parametrize(
    ('backbone', 'reason'),
    [
        (dict(type='mmpose.ConvNeXt'), 'mmpose.ConvNeXt'),
        (dict(type=Unusual, package='timm'), 'built .*timm is not installed'),
        (dict(type=Unusual, package=None), 'run on images .*text'),
    ],
)
def test_backbones_that_cannot_be_probed(pure_python, backbone, reason):
    cfg = read_config(pure_python)
    cfg.model.backbone = backbone
    with pytest.raises(ConfigError, match=reason) as caught:
        swap_backbone(cfg, read_donor('mmdet'))
    assert '\n' not in str(caught.value)


def test_detectors_of_one_class_are_tried(pure_python):
    cfg = read_config(pure_python)
    cfg.model.bbox_head.num_classes = 1
    assert try_swap(cfg, swap_backbone(cfg, read_donor('mmdet'))) == []


def test_losses_that_depend_on_the_epoch_are_tried():
    cfg = read_config('mmdet::tood/tood_r50_fpn_1x_coco.py')
    cfg.model.bbox_head.stacked_convs = 1
    cfg.train_dataloader.dataset.pipeline[2].update(
        scale=(128, 128), keep_ratio=False
    )
    assert try_swap(cfg, swap_backbone(cfg, read_donor('mmdet'))) == []


def test_what_fails_with_both_backbones_is_no_reason_to_refuse(pure_python):
    cfg = read_config(pure_python)
    swap = swap_backbone(cfg, read_donor('mmdet'))
    cfg.model.bbox_head.strides = [8]
    (note,) = try_swap(cfg, swap)
    assert 'not tried' in note


def test_heads_that_only_read_the_old_maps_are_refused(pure_python):
    cfg = read_config(pure_python)
    swap = swap_backbone(cfg, read_donor('mmdet'))
    swap.settings['model']['neck']['in_channels'][0] += 1
    with pytest.raises(ConfigError, match='cannot take BiFormer') as caught:
        try_swap(cfg, swap)
    assert '\n' not in str(caught.value)


def test_settings_are_merged_as_from_a_file(pure_python, tmp_path):
    plain = tmp_path / 'plain.py'
    plain.write_text(read_config(pure_python).pretty_text)
    cfg = read_config(str(plain))
    swap = swap_backbone(cfg, read_donor('mmdet'))
    out = tmp_path / 'biformer.py'
    out.write_text(render_config(cfg, str(plain), swap.settings))
    assert '_base_' in out.read_text()
    assert 'depth' not in Config.fromfile(out).model.backbone
