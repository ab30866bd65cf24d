"""What swap_backbone.py writes is exported as it predicts, or refused."""

import warnings
from pathlib import Path

import pytest
import torch
from any_head import SIDES, build_merged, merge_small, read, swap_small
from exported import randomize

from mmbiformer.deployment.export import Options, write_verified
from mmbiformer.deployment.table import VerificationError, format_table
from mmbiformer.deployment.tracing import Sizes
from mmbiformer.utils.errors import ConfigError

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
PAGE = Path(__file__).resolve().parents[2] / 'docs/deployment.md'
CLASSES = dict(classes=['thing'] * 1203, palette=[[0, 0, 0]] * 1203)
HEADS = (
    # One stage.
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
    'mmdet::ddod/ddod_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::free_anchor/freeanchor_r50_fpn_1x_coco.py',
    'mmdet::fsaf/fsaf_r50_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py',
    'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
    'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py',
    'mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'mmdet::centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py',
    'mmdet::foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'mmdet::paa/paa_r50_fpn_1x_coco.py',
    'mmdet::reppoints/reppoints-moment_r50_fpn_1x_coco.py',
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py',
    'mmdet::tood/tood_r50_fpn_1x_coco.py',
    'mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py',
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    'mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'mmdet::solo/solo_r50_fpn_1x_coco.py',
    'mmdet::yolact/yolact_r50_1xb8-55e_coco.py',
    # Two stages.
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'mmdet::pisa/faster-rcnn_r50_fpn_pisa_1x_coco.py',
    'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'mmdet::cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    'mmdet::double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py',
    'mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py',
    'mmdet::groie/faste-rcnn_r50_fpn_groie_1x_coco.py',
    'mmdet::guided_anchoring/ga-faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::htc/htc_r50_fpn_1x_coco.py',
    'mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    'mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'mmdet::queryinst/queryinst_r50_fpn_1x_coco.py',
    'mmdet::sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::scnet/scnet_r50_fpn_1x_coco.py',
    'mmdet::seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py',
    # Of their own kind.
    'mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    # Segmentors.
    'mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::apcnet/apcnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::deeplabv3/deeplabv3_r18b-d8_4xb2-80k_cityscapes-769x769.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::emanet/emanet_r50-d8_4xb2-80k_cityscapes-769x769.py',
    'mmseg::encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'mmseg::gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py',
    'mmseg::isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py',
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
    'mmseg::nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
    'mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py',
    'mmseg::psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py',
    'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',
    'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    'mmseg::setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py',
    'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
)
"""tuple[str]: A config for each type of head that a small BiFormer fits."""
UNDECIDED = 'random weights decide nothing: the file could not be verified'
"""str: What comes of a model that rounding changes more than it may."""
WINDOWS = '`model.test_cfg.mode=whole`: '
"""str: What a config needs that tests in windows."""


def small_model(name):
    """Build the model of a config with a small BiFormer and random weights.

    Args:
        name (str): The config.

    Returns:
        tuple[nn.Module, Config, int | None]: The model, its config, and the
        side of the images that its head needs.
    """
    cfg = read(name)
    folder = name.partition('::')[2].partition('/')[0]
    side = SIDES.get(folder)
    merged = merge_small(cfg, swap_small(cfg), side or 96)
    merged.default_scope = cfg.default_scope
    tests = merged.model.test_cfg
    if tests.get('mode') == 'slide':
        merged.model.test_cfg = dict(mode='whole')
    # Without training, no score is high.
    for settings in (tests, tests.get('rcnn') or {}):
        if 'score_thr' in settings:
            settings['score_thr'] = 1e-3
    model = randomize(build_merged(cfg, merged)).eval()
    with torch.no_grad():
        for value in model.parameters():
            # Scores of heads of many channels would all be 1 otherwise.
            if value.ndim > 1:
                value.mul_(min(1, 20 * value[0].numel() ** -0.5))
    return model, merged, side


def kind_of(model):
    """Return the types of a model and its head."""
    names = ('bbox_head', 'roi_head', 'panoptic_head', 'mask_head')
    heads = [getattr(model, name, None) for name in (*names, 'decode_head')]
    head = next(one for one in heads if one is not None)
    # The last one of a cascade predicts.
    last = getattr(model, 'num_stages', None) and head[-1]
    return f'`{type(model).__name__}`, `{type(last or head).__name__}`'


def refusal(model, cfg, sizes, path):
    """Export a model; return why not, or ``''``."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            rows, _ = write_verified(
                cfg, model, CLASSES, None, path, Options(sizes)
            )
        except VerificationError as error:
            lines = [x for x in str(error).splitlines() if 'FAILED: ' in x]
            if all('(unstable)' in line for line in lines):
                return UNDECIDED
            return 'verification: ' + lines[0].partition('FAILED: ')[2]
        except ConfigError as error:
            return str(error)
    print(format_table(rows))
    # Detectors have to detect something, or nothing has been compared.
    assert not any(row.found in ('0', '0+0') for row in rows[:1])
    return ''


def outcome(model, cfg, side, path):
    """Return what comes of a model, at any size or else at one."""
    reason = refusal(model, cfg, Sizes(), path) if side is None else ' '
    if not reason:
        return 'exported'
    if 'cannot be exported' not in reason:
        sizes = Sizes(1, side or 160, side or 160)
        reason = refusal(model, cfg, sizes, path)
        if not reason:
            return 'exported with `--shape` and `--batch`'
    print(reason)
    reason = (
        reason.splitlines()[0].partition('cannot be exported: ')[2]
        or (reason.splitlines()[0])
    )
    for end in (' (model.', ', and of others', ', got'):
        reason = reason.partition(end)[0]
    return f'refused: {reason}'


@pytest.mark.slow
@pytest.mark.parametrize('name', HEADS)
def test_heads(name, tmp_path):
    model, cfg, side = small_model(name)
    windows = (
        WINDOWS if read(name).model.test_cfg.get('mode') == 'slide' else ''
    )
    result = windows + outcome(model, cfg, side, tmp_path / 'model.onnx')
    row = f'| {kind_of(model)} | `{name}` | {result} |'
    print(row)
    assert 'verification' not in result
    # What the page says of it is true.
    assert row in PAGE.read_text()
