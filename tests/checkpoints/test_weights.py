import re

import pytest
import torch
from torch import nn

from mmbiformer.checkpoints.weights import (
    compare_weights,
    load_all_weights,
    state_dict_of,
)
from mmbiformer.utils.errors import CheckpointError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)


def test_every_difference_is_listed_once():
    own = dict(a=torch.ones(2), b=torch.ones(3), norm=torch.ones(1))
    weights = dict(a=torch.ones(5), c=torch.ones(3), head=torch.ones(1))
    strict = compare_weights(weights, own)
    assert strict.missing == ['b', 'norm']
    assert strict.surplus == ['c', 'head']
    assert strict.reshaped == ['a (has (5,), needs (2,))']
    assert strict.initial == strict.left_out == []
    tolerant = compare_weights(
        weights, own, re.compile('norm'), re.compile('head')
    )
    assert (tolerant.missing, tolerant.initial) == (['b'], ['norm'])
    assert (tolerant.surplus, tolerant.left_out) == (['c'], ['head'])
    with pytest.raises(CheckpointError) as error:
        tolerant.check('x.pth', 'this model')
    assert str(error.value) == (
        "checkpoint='x.pth' does not fit this model. Weights missing: b; "
        'surplus: c; of another shape: a (has (5,), needs (2,))'
    )
    compare_weights(own, own).check('x.pth', 'this model')


class TestWholeModel:
    def test_all_are_loaded(self):
        weights = Model().state_dict()
        weights = {f'module.{name}': value for name, value in weights.items()}
        weights['auxiliary_head.weight'] = torch.ones(1)
        model = Model()
        load_all_weights(model, dict(state_dict=weights), 'x.pth')
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[f'module.{name}'])

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda w: w.pop('head.bias'), 'missing: head.bias'),
            (lambda w: w.update({'backbone.x': torch.ones(1)}),
             'surplus: backbone.x'),
            (lambda w: w.update({'head.bias': torch.ones(9)}),
             r'size mismatch for head.bias.*\[9\]'),
        ],
    )  # fmt: skip
    def test_others_are_refused(self, change, message):
        weights = Model().state_dict()
        change(weights)
        message = f"'x.pth' does not fit the model of this.*{message}"
        with pytest.raises(CheckpointError, match=f'(?s){message}'):
            load_all_weights(Model(), dict(state_dict=weights), 'x.pth')


@pytest.mark.parametrize(
    ('content', 'found'),
    [
        (dict(meta=1, epoch=2), "['epoch', 'meta']"),
        (dict(state_dict=dict(a=1)), "['state_dict']"),
        ([1, 2], 'list'),
        ({}, '[]'),
        (None, 'NoneType'),
    ],
)
def test_a_file_without_weights_is_refused(content, found):
    with pytest.raises(CheckpointError) as error:
        state_dict_of(content, 'x.pth')
    message = str(error.value)
    assert message.startswith("checkpoint='x.pth' holds no weights: ")
    assert message.endswith(f'; found {found}')
