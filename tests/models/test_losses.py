import pytest
import torch
from mmseg.models.losses import CrossEntropyLoss

from mmbiformer.models import WeightedCrossEntropyLoss

WEIGHTS = [0.1, 1.0, 2.0]


def draw(generator):
    scores = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    return scores, labels


def test_the_value_is_that_of_mmseg():
    scores, labels = draw(torch.Generator().manual_seed(0))
    theirs = CrossEntropyLoss(class_weight=WEIGHTS, loss_weight=0.4)
    ours = WeightedCrossEntropyLoss(WEIGHTS, loss_weight=0.4)
    for weight in (None, torch.rand(2, 8, 8)):
        expected = theirs(scores, labels, weight, ignore_index=255)
        value = ours(scores, labels, weight, ignore_index=255)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert ours.loss_name == theirs.loss_name


def test_ignored_pixels_do_not_count():
    scores, labels = draw(torch.Generator().manual_seed(0))
    labels[:, :3] = 255
    scores.requires_grad_()
    loss = WeightedCrossEntropyLoss(WEIGHTS)
    value = loss(scores, labels, ignore_index=255)
    rest = loss(scores[:, :, 3:], labels[:, 3:], ignore_index=255)
    assert value.item() == pytest.approx(rest.item())
    value.backward()
    assert not scores.grad[:, :, :3].any()
    labels[:] = 255
    assert loss(scores, labels, ignore_index=255) == 0
