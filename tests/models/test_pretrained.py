from argparse import Namespace

import pytest
import reference
import torch
from mmengine.registry import MODELS

from mmbiformer.utils.errors import CheckpointError, MissingFileError

ARCH = dict(depths=(1, 1, 1, 1), dims=(32, 32, 32, 64))


def build(checkpoint, **init_cfg):
    model = MODELS.build(
        dict(
            type='BiFormer',
            arch=ARCH,
            init_cfg=dict(
                type='Pretrained', checkpoint=str(checkpoint), **init_cfg
            ),
        )
    )
    model.init_weights()
    return model


@pytest.fixture
def weights():
    """Weights as the authors' ImageNet files hold them."""
    model = MODELS.build(dict(type='BiFormer', arch=ARCH))
    weights = {
        name: torch.rand_like(value, dtype=torch.float)
        for name, value in model.state_dict().items()
        if not name.startswith('extra_norms.')
    }
    weights['norm.weight'] = weights['norm.running_mean'] = torch.rand(64)
    weights['head.weight'] = torch.rand(1000, 64)
    return weights


def save(tmp_path, content):
    path = tmp_path / 'weights.pth'
    torch.save(content, path)
    return path


def assert_loaded(model, weights):
    own = model.state_dict()
    for name, value in weights.items():
        if not name.startswith(('norm.', 'head.')):
            assert torch.equal(own[name], value.to(own[name].dtype)), name
    for name, value in own.items():
        if name.startswith('extra_norms.'):
            assert (value == float(name.endswith('weight'))).all()


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'stl'])
def test_a_released_checkpoint_loads_as_it_is(tmp_path, arch):
    shapes = reference.released_shapes(arch)
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in reference.make_weights(shapes, 0).items()
    }
    path = save(tmp_path, dict(model=weights, epoch=299))
    model = MODELS.build(
        dict(
            type='BiFormer',
            arch=arch,
            init_cfg=dict(type='Pretrained', checkpoint=str(path)),
        )
    )
    model.init_weights()
    assert_loaded(model, weights)


@pytest.mark.parametrize('key', ['model', 'state_dict', None])
def test_each_form_of_checkpoint(tmp_path, weights, key):
    content = weights if key is None else {key: weights}
    assert_loaded(build(save(tmp_path, content)), weights)


def test_a_file_of_the_authors_training_code_loads(tmp_path, weights):
    args = Namespace(model='biformer_small', lr=5e-4)
    content = dict(model=weights, optimizer={}, epoch=299, args=args)
    assert_loaded(build(save(tmp_path, content)), weights)


def test_prefix_takes_the_backbone_of_a_detector(tmp_path, weights):
    detector = {f'backbone.{name}': value for name, value in weights.items()}
    detector['bbox_head.weight'] = torch.rand(3)
    path = save(tmp_path, dict(state_dict=detector))
    assert_loaded(build(path, prefix='backbone.'), weights)
    with pytest.raises(CheckpointError, match="prefix='encoder.'"):
        build(path, prefix='encoder')


@pytest.mark.parametrize('head', ['head.fc', 'bbox_head'])
def test_the_backbone_of_a_whole_model_is_taken(tmp_path, weights, head):
    whole = {f'backbone.{name}': value for name, value in weights.items()}
    # Of a classifier that was trained here.
    whole['backbone.norm.weight'] = torch.rand(64)
    whole[f'{head}.weight'] = torch.rand(3)
    path = save(tmp_path, dict(state_dict=whole, meta={}))
    assert_loaded(build(path), weights)
    del whole['backbone.stages.0.0.norm1.bias']
    with pytest.raises(CheckpointError, match='missing: stages.0.0.norm1.b'):
        build(save(tmp_path, dict(state_dict=whole)))


def test_in_a_list_it_is_as_strict(tmp_path, weights):
    constant = dict(type='Constant', layer='LayerNorm', val=2.0)
    path = save(tmp_path, weights)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    config = dict(type='BiFormer', arch=ARCH, init_cfg=[pretrained, constant])
    model = MODELS.build(config)
    model.init_weights()
    name = 'stages.0.0.norm1.weight'
    assert torch.equal(model.state_dict()[name], weights[name])
    assert (model.extra_norms['0'].weight == 2).all()
    save(tmp_path, dict(other=torch.rand(2)))
    with pytest.raises(CheckpointError, match='missing'):
        MODELS.build(config).init_weights()


def test_stages_that_are_not_built_are_left_out(tmp_path, weights):
    model = MODELS.build(
        dict(
            type='BiFormer',
            arch=ARCH,
            out_indices=(1,),
            init_cfg=dict(
                type='Pretrained', checkpoint=str(save(tmp_path, weights))
            ),
        )
    )
    model.init_weights()
    name = 'stages.1.0.attn.wo.weight'
    assert torch.equal(model.state_dict()[name], weights[name])


def test_a_wrong_checkpoint_is_refused_by_name(tmp_path, weights):
    del weights['stages.2.0.attn.wo.bias']
    weights['layer1.conv.weight'] = torch.rand(3)
    weights['stages.0.0.norm1.weight'] = torch.rand(7)
    with pytest.raises(CheckpointError) as error:
        build(save(tmp_path, dict(model=weights)))
    message = str(error.value)
    assert 'missing: stages.2.0.attn.wo.bias' in message
    assert 'surplus: layer1.conv.weight' in message
    assert 'stages.0.0.norm1.weight (has (7,), needs (32,))' in message


def test_the_form_with_other_names_is_refused_by_name(tmp_path, weights):
    path = tmp_path / 'biformer_stl_nchw_best.pth'
    weights['stages.0.x'] = weights.pop('stages.0.0.norm1.weight')
    torch.save(dict(model=weights), path)
    with pytest.raises(CheckpointError, match='surplus.*channels-first form'):
        build(path)


@pytest.mark.parametrize('content', [dict(meta=1), [1, 2], {}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match='holds no weights'):
        build(save(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFileError, match='nowhere.pth'):
        build(tmp_path / 'nowhere.pth')
