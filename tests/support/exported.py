"""Small models for export: one for each kind, in seconds."""

from pathlib import Path

import torch

from mmbiformer.utils.config import build_model, read_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
BACKBONE = """
model = dict(
    backbone=dict(
        arch=dict(
            depths=(1, 1, 1, 1), dims=(32, 32, 32, LAST_DIM), _delete_=True
        ),
        n_win=3, topks=(1, 2, 4, -2),
    ),
"""
"""str: Begin of each config. Three regions per side divide few images."""
BODIES = {
    'maskrcnn': """
    neck=dict(in_channels=[32, 32, 32, LAST_DIM], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=16, num_convs=1),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=50, max_per_img=20),
        rcnn=dict(max_per_img=10, score_thr=SCORE_THR),
    ),
)
""",
    'retinanet': """
    neck=dict(in_channels=[32, 32, LAST_DIM], out_channels=32),
    bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1),
    test_cfg=dict(nms_pre=50, max_per_img=10, score_thr=SCORE_THR),
)
""",
    'sfpn': """
    neck=dict(in_channels=[32, 32, 32, LAST_DIM], out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=16),
)
""",
    'upernet': """
    decode_head=dict(in_channels=[32, 32, 32, LAST_DIM], channels=16),
    auxiliary_head=dict(in_channels=32, channels=16),
)
""",
}
"""dict[str, str]: The rest of each config, by recipe."""


def write_config(recipe, path, score_thr=0.02, last_dim=32):
    """Write the config of a small model of a recipe.

    Args:
        recipe (str): One of :data:`BODIES`.
        path (Path): The file.
        score_thr (float): Score from which on detectors detect; 1 is none.
        last_dim (int): Channels of the last stage.

    Returns:
        Path: The file.
    """
    task = (
        'detection'
        if recipe in ('maskrcnn', 'retinanet')
        else ('segmentation')
    )
    text = (
        f"_base_ = '{CONFIGS}/{task}/{recipe}_biformer_digits.py'\n"
        + BACKBONE
        + BODIES[recipe]
    )
    for name, value in dict(SCORE_THR=score_thr, LAST_DIM=last_dim).items():
        text = text.replace(name, str(value))
    path.write_text(text)
    return path


def random_model(cfg):
    """Build a model whose predictions differ from place to place."""
    torch.manual_seed(0)
    return randomize(build_model(cfg))


@torch.no_grad()
def randomize(model):
    """Set weights at random, so small that rounding is not amplified."""
    for name, value in model.named_parameters():
        if 'norm' not in name and value.ndim > 1:
            value.normal_(std=0.05)
    return model


def save_model(config, path, classes):
    """Save random weights of a config; return the file."""
    model = random_model(read_config(str(config)))
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path
