import pytest
import torch

from unending.parts.prefix import attention, merge_attention


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dense(query, key, value, scaling, mask=None):
    repeat = query.shape[-2] // key.shape[-2]
    key, value = (each.repeat_interleave(repeat, dim=-2) for each in (key, value))
    mask = None if mask is None else mask[..., None, :, :]
    query, key, value = (each.transpose(-3, -2) for each in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling
    ).transpose(-3, -2)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (4, 1)])
def test_equals_the_attention_of_torch_and_the_lse_of_all_its_scores(batch, heads, kv_heads):
    query = draw(*batch, 5, heads, 8)
    key, value = draw(*batch, 7, kv_heads, 8, seed=1), draw(*batch, 7, kv_heads, 8, seed=2)
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2).expand(*batch, 5, 7)
    for seen in (None, mask):
        out, lse = attention(query, key, value, 0.3, seen)
        torch.testing.assert_close(out, dense(query, key, value, 0.3, seen), rtol=1e-5, atol=1e-6)
        scores = torch.einsum(
            "...nhd,...mhd->...nhm", query, key.repeat_interleave(heads // kv_heads, dim=-2)
        )
        scores = 0.3 * scores if seen is None else (0.3 * scores).masked_fill(~seen[..., None, :], -torch.inf)
        torch.testing.assert_close(lse, scores.logsumexp(dim=-1), rtol=1e-5, atol=1e-6)


def parts(seed=0, scale=1.0):
    """Queries of a group, its prefix, and what each member has of its own."""
    query = scale * draw(4, 3, 6, 8, seed=seed)
    prefix = [draw(11, 2, 8, seed=seed + each) for each in (1, 2)]
    own = [draw(4, 5, 2, 8, seed=seed + each) for each in (3, 4)]
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2).expand(4, 3, 5)
    return query, prefix, own, mask


def whole(query, prefix, own, mask):
    keys, values = (
        torch.cat([shared.expand(4, -1, -1, -1), each], dim=1)
        for shared, each in zip(prefix, own, strict=True)
    )
    return dense(query, keys, values, 0.35, torch.cat([torch.ones(4, 3, 11, dtype=torch.bool), mask], dim=-1))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_merged_parts_equal_the_dense_whole(scale):
    query, prefix, own, mask = parts(scale=scale)
    out, lse = attention(query.flatten(0, 1), *prefix, 0.35)
    merged, _ = merge_attention(
        out.unflatten(0, (4, 3)), lse.unflatten(0, (4, 3)), *attention(query, *own, 0.35, mask)
    )
    torch.testing.assert_close(merged, whole(query, prefix, own, mask), rtol=1e-5, atol=1e-5)


def test_merging_without_the_weights_of_the_scores_is_wrong():
    query, prefix, own, mask = parts()
    out, _ = attention(query.flatten(0, 1), *prefix, 0.35)
    own_out, _ = attention(query, *own, 0.35, mask)
    expected = whole(query, prefix, own, mask)
    for toy in ((out.unflatten(0, (4, 3)) + own_out) / 2, (11 * out.unflatten(0, (4, 3)) + 5 * own_out) / 16):
        assert (toy - expected).abs().max() > 0.01


def test_a_part_that_sees_nothing_adds_nothing_and_two_such_give_zero():
    out, lse = attention(
        draw(2, 4, 8), draw(3, 2, 8), draw(3, 2, 8), 1.0, torch.zeros(2, 3, dtype=torch.bool)
    )
    assert not out.any()
    assert (lse == -torch.inf).all()
    full = attention(draw(2, 4, 8), draw(3, 2, 8), draw(3, 2, 8), 1.0)
    for merged, expected in zip(merge_attention(out, lse, *full), full, strict=True):
        torch.testing.assert_close(merged, expected, rtol=0, atol=0)
    merged, both = merge_attention(out, lse, out, lse)
    assert not merged.any()
    assert (both == -torch.inf).all()


def test_merging_is_associative():
    query, key, value = draw(3, 4, 8), draw(9, 2, 8, seed=1), draw(9, 2, 8, seed=2)
    one, two, three = (attention(query, key[a:b], value[a:b], 0.3) for a, b in ((0, 2), (2, 7), (7, 9)))
    left = merge_attention(*merge_attention(*one, *two), *three)
    right = merge_attention(*one, *merge_attention(*two, *three))
    for mine, other in zip(left, right, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_half_precision_is_merged_in_float32():
    out, lse = attention(*(draw(3, 2, 8, seed=each).to(torch.bfloat16) for each in range(3)), 1.0)
    assert out.dtype == lse.dtype == torch.float32
