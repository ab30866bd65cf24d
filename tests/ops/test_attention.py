import pytest
import torch

from mmbiformer.ops import (
    ATTENTION_BACKENDS,
    map_to_regions,
    regions_to_map,
    routed_attention,
)


def attend_by_hand(q, k, v, routing, num_heads, scale):
    """One query token and one head at a time, over 2 x 2 regions."""
    size = q.shape[1:3]
    q, k, v = (map_to_regions(x, 2) for x in (q, k, v))
    out = torch.zeros_like(q)
    head_dim = q.shape[-1] // num_heads
    for n in range(q.shape[0]):
        for region in range(q.shape[1]):
            keys = torch.cat([k[n, j] for j in routing[n, region]])
            values = torch.cat([v[n, j] for j in routing[n, region]])
            for head in range(num_heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                for token in range(q.shape[2]):
                    weights = scale * (
                        keys[:, part] @ q[n, region, token, part]
                    )
                    out[n, region, token, part] = (
                        weights.softmax(0) @ values[:, part]
                    )
    return regions_to_map(out, size, 2)


@pytest.mark.parametrize('backend', ATTENTION_BACKENDS)
def test_against_attention_by_hand(backend):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 32).double()
    routing = torch.stack(
        [
            torch.stack([torch.randperm(4)[:2] for _ in range(4)])
            for _ in range(2)
        ]
    )
    out = routed_attention(q, k, v, routing, 2, 0.3, backend)
    torch.testing.assert_close(out, attend_by_hand(q, k, v, routing, 2, 0.3))
