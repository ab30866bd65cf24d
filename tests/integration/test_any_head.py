"""BiFormer under heads of all kinds; prints the table of docs/any_head.md."""

from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmbiformer.models.swap import render_config, swap_backbone
from mmbiformer.reliable.features import check_features
from mmbiformer.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs/any_head.md'
SIDE = 96

DONORS = dict(
    mmdet='detection/maskrcnn_biformer', mmseg='segmentation/upernet_biformer'
)
# What kind of head, and a config that has it. 'quick' ones are part of every
# test run.
HEADS = [
    ('two-stage', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'quick'),
    ('two-stage', 'pafpn/faster-rcnn_r50_pafpn_1x_coco', ''),
    ('two-stage, masks', 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco', ''),
    ('cascade', 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco', 'quick'),
    ('cascade', 'htc/htc-without-semantic_r50_fpn_1x_coco', ''),
    ('anchor-free', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 'quick'),
    (
        'anchor-free',
        'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco',
        '',
    ),
    ('anchor-free', 'reppoints/reppoints-moment_r50_fpn_1x_coco', ''),
    ('anchor-free', 'yolox/yolox_s_8xb8-300e_coco', ''),
    ('one-stage', 'atss/atss_r50_fpn_1x_coco', ''),
    ('one-stage', 'gfl/gfl_r50_fpn_1x_coco', 'quick'),
    ('one-stage', 'paa/paa_r50_fpn_1x_coco', ''),
    ('one-stage', 'vfnet/vfnet_r50_fpn_1x_coco', ''),
    ('one-stage', 'dyhead/atss_r50_fpn_dyhead_1x_coco', ''),
    ('one-stage', 'yolof/yolof_r50-c5_8xb8-1x_coco', ''),
    ('one-stage', 'yolo/yolov3_d53_8xb8-ms-608-273e_coco', ''),
    ('one-stage', 'rtmdet/rtmdet_s_8xb32-300e_coco', ''),
    ('one-stage, masks', 'yolact/yolact_r50_1xb8-55e_coco', ''),
    ('DETR', 'detr/detr_r50_8xb2-150e_coco', ''),
    ('DETR', 'conditional_detr/conditional-detr_r50_8xb2-50e_coco', ''),
    ('DETR', 'dab_detr/dab-detr_r50_8xb2-50e_coco', ''),
    ('DETR', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco', ''),
    ('DETR', 'dino/dino-4scale_r50_8xb2-12e_coco', 'quick'),
    ('queries', 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco', ''),
    ('queries, masks', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco', ''),
    (
        'panoptic',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic',
        'quick',
    ),
    ('panoptic', 'maskformer/maskformer_r50_ms-16xb1-75e_coco', ''),
    ('panoptic', 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco', ''),
    ('masks without boxes', 'solov2/solov2_r50_fpn_1x_coco', ''),
    (
        'masks without boxes',
        'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance',
        '',
    ),
]
DECODERS = [
    ('PSP', 'pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512', ''),
    (
        'DeepLabV3+',
        'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512',
        'quick',
    ),
    (
        'SegFormer',
        'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'quick',
    ),
    (
        'Mask2Former',
        'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512',
        '',
    ),
    (
        'MaskFormer',
        'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512',
        '',
    ),
    ('OCR', 'ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512', ''),
    ('PointRend', 'point_rend/pointrend_r50_4xb4-160k_ade20k-512x512', ''),
    ('K-Net', 'knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512', ''),
    (
        'UPer',
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
        '',
    ),
    (
        'LightHam',
        'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
        '',
    ),
    ('DANet', 'danet/danet_r50-d8_4xb4-80k_ade20k-512x512', ''),
    (
        'Segmenter',
        'segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512',
        '',
    ),
    ('SETR', 'setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512', ''),
]
REFUSED = [
    ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py', 'C4 or DC5'),
    ('mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py', '5 maps'),
    (
        'mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
        'strides',
    ),
    (
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_'
        'semi-0.1-coco.py',
        'no backbone of its own',
    ),
    ('mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py', 'more than maps'),
]
CASES = [
    pytest.param(
        kind,
        f'{scope}::{name}.py',
        id=name.split('/')[1].split('_')[0],
        marks=() if when else pytest.mark.slow,
    )
    for scope, cases in (('mmdet', HEADS), ('mmseg', DECODERS))
    for kind, name, when in cases
]
# A few show all that thousands do.
LIMITS = dict(
    num_queries=20,
    num_proposals=20,
    max_per_img=20,
    max_num=20,
    nms_pre=50,
    num=16,
    num_points=64,
)


def shrink(node):
    """Cut a model's config down to what takes seconds."""
    if isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if isinstance(value, int) and value > LIMITS.get(key, value):
            node[key] = LIMITS[key]
        if key in ('encoder', 'decoder', 'transformer_decoder'):
            value['num_layers'] = min(2, value.get('num_layers', 2))
        shrink(value)


def read_donor(scope):
    donor = Config.fromfile(ROOT / f'configs/{DONORS[scope]}.py')
    donor.model.backbone.update(
        arch=dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128)),
        n_win=4,
        init_cfg=None,
    )
    return donor


def make_inputs(cfg):
    """Return two images with what the config's pipeline would load."""
    if cfg.default_scope == 'mmseg':
        shapes = ('img_shape', 'ori_shape', 'pad_shape')
        inputs = dict(inputs=[], data_samples=[])
        for _ in range(2):
            sample = SegDataSample(
                metainfo=dict.fromkeys(shapes, (SIDE, SIDE))
            )
            labels = torch.randint(0, 19, (1, SIDE, SIDE))
            sample.gt_sem_seg = PixelData(data=labels)
            image = torch.randint(0, 256, (3, SIDE, SIDE))
            inputs['inputs'].append(image)
            inputs['data_samples'].append(sample)
        return inputs
    loads = [
        step
        for step in cfg.train_pipeline
        if step['type'].startswith('Load')
        and step['type'].endswith('Annotations')
    ]
    panoptic = any('Panoptic' in step['type'] for step in loads)
    return demo_mm_inputs(
        2,
        [(3, SIDE, SIDE), (3, SIDE, 80)],
        num_classes=80,
        num_items=[3, 2],
        with_mask=panoptic or any(step.get('with_mask') for step in loads),
        with_semantic=panoptic,
    )


def test_the_tool_writes_a_config(tmp_path, run_tool):
    tool, out = 'model_converters/swap_backbone.py', tmp_path / 'dino.py'
    name = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
    run_tool(tool, name, out, '--arch', 'base')
    cfg = Config.fromfile(out)
    donor = Config.fromfile(
        ROOT / 'configs/detection/maskrcnn_biformer_base.py'
    )
    expected = dict(donor.model.backbone, out_indices=(1, 2, 3))
    assert cfg.model.backbone == expected
    assert cfg.model.neck.in_channels == [192, 384, 768]
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
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


@pytest.fixture(scope='module')
def table(request):
    """Print what was tried, as the page's table."""
    rows = ['| kind | config | strides of the maps |', '| --- | --- | --- |']
    yield rows
    capture = request.config.pluginmanager.getplugin('capturemanager')
    with capture.global_and_fixture_disabled():
        print('\n' + '\n'.join(rows))


@pytest.mark.parametrize(('kind', 'name'), CASES)
def test_loss_and_predictions(kind, name, table):
    torch.manual_seed(0)
    cfg = get_config(name)
    settings, _ = swap_backbone(cfg, read_donor(cfg.default_scope))
    # As a user's file is read.
    merged = Config.fromstring(render_config(name, settings), '.py')
    shrink(merged.model)
    images = merged.model.data_preprocessor
    # Paddings and resizings to the recipe's size.
    images.batch_augments = None
    if 'size' in images:
        images.size = (SIDE, SIDE)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(merged.model))
    check_features(model)
    model.init_weights()
    inputs = make_inputs(cfg)
    model.train()
    data = model.data_preprocessor(inputs, True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    without = [
        n for n, p in model.backbone.named_parameters() if p.grad is None
    ]
    assert not without
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs, False)
        results = model.predict(data['inputs'], data['data_samples'])
    assert len(results) == 2
    maps = settings['model']['backbone']['out_indices']
    strides = ', '.join(str(4 * 2**i) for i in maps)
    row = f'| {kind} | `{name}` | {strides} |'
    table.append(row)
    assert row in PAGE.read_text()


@pytest.mark.parametrize(('name', 'why'), REFUSED)
def test_what_cannot_work_is_said_to_be_so(name, why):
    cfg = get_config(name)
    with pytest.raises(ConfigError, match=why):
        swap_backbone(cfg, read_donor(cfg.default_scope))
    assert f'`{name}`' in PAGE.read_text()
