import pytest
import torch

from mmbiformer.visualization import region_usage, routing_statistics


def test_a_grid_by_hand():
    """Of 3 x 3 regions all choose the upper left one, half also themselves."""
    routing = torch.zeros(1, 9, 2, dtype=torch.int64)
    routing[0, :, 1] = torch.arange(9).clamp(min=1)
    usage = region_usage(routing)
    assert usage[0, 0] == 1
    # The upper left region takes its right neighbour too.
    torch.testing.assert_close(usage[0, 1], torch.tensor(2 / 9))
    torch.testing.assert_close(usage[0, 2:], torch.full((7,), 1 / 9))
    statistics = routing_statistics(routing)
    assert statistics['most_used'] == 1
    assert statistics['unused'] == 0
    # From rows or columns 2 the corner is far: five of eighteen routes.
    assert statistics['far'] == pytest.approx(5 / 18)
    p = torch.tensor([9, 2] + [1] * 7) / 18
    entropy = -(p * p.log()).sum() / torch.tensor(9.0).log()
    assert statistics['entropy'] == pytest.approx(entropy.item())


def test_extremes():
    everything = torch.arange(16).expand(2, 16, 16)
    statistics = routing_statistics(everything)
    assert statistics['entropy'] == pytest.approx(1)
    assert statistics['unused'] == 0
    one = torch.full((2, 16, 1), 5)
    statistics = routing_statistics(one)
    assert statistics['entropy'] == pytest.approx(0)
    assert statistics['unused'] == 15 / 16
    assert routing_statistics(torch.zeros(1, 1, 1).long())['entropy'] == 1
