import torch

from mmbiformer.ops import route


def test_identical_far_apart_regions_are_routed_to_each_other():
    torch.manual_seed(0)
    x = 0.1 * torch.randn(1, 16, 4, 8)
    patch = torch.randn(4, 8) + 1
    x[0, 0] = x[0, 15] = patch
    routing, affinity = route(x, x, topk=2, scale=1.0)
    assert set(routing[0, 0].tolist()) == {0, 15}
    assert set(routing[0, 15].tolist()) == {0, 15}
    assert (affinity[..., 0] >= affinity[..., 1]).all()


def test_affinity_is_the_scaled_product_of_the_means():
    q, k = torch.randn(2, 2, 9, 5, 4).double()
    routing, affinity = route(q, k, topk=9, scale=0.25)
    for n in range(2):
        for i in range(9):
            for j in range(9):
                expected = 0.25 * (
                    q[n, i].mean(0) @ k[n, routing[n, i, j]].mean(0)
                )
                torch.testing.assert_close(affinity[n, i, j], expected)


def test_routing_has_no_gradient():
    q = torch.randn(1, 4, 3, 2, requires_grad=True)
    _, affinity = route(q, q, topk=2, scale=1.0)
    assert not affinity.requires_grad
