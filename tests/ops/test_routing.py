import torch

from mmbiformer.ops import map_to_regions, region_means, route


def test_the_descriptor_is_the_mean_of_a_region():
    x = torch.randn(2, 6, 9, 4).double()
    expected = map_to_regions(x, 3).mean(2)
    torch.testing.assert_close(region_means(x, 3), expected)


def test_identical_far_apart_regions_are_routed_to_each_other():
    torch.manual_seed(0)
    x = 0.1 * torch.randn(1, 16, 8)
    x[0, 0] = x[0, 15] = torch.randn(8) + 1
    routing, affinity = route(x, x, topk=2, scale=1.0)
    assert set(routing[0, 0].tolist()) == {0, 15}
    assert set(routing[0, 15].tolist()) == {0, 15}
    assert (affinity[..., 0] >= affinity[..., 1]).all()


def test_affinity_is_the_scaled_product_of_the_means():
    q, k = torch.randn(2, 2, 9, 4).double()
    routing, affinity = route(q, k, topk=9, scale=0.25)
    for n in range(2):
        for i in range(9):
            for j in range(9):
                expected = 0.25 * (q[n, i] @ k[n, routing[n, i, j]])
                torch.testing.assert_close(affinity[n, i, j], expected)


def test_the_affinities_have_gradients():
    x = torch.randn(1, 4, 6, 2, dtype=torch.float64, requires_grad=True)

    def affinity(x):
        descriptors = region_means(x, 2)
        return route(descriptors, descriptors, topk=2, scale=0.5)[1]

    assert torch.autograd.gradcheck(affinity, x)
