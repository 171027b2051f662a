"""Sparse attention, beside naive recomputations in NumPy over all pairs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unbraid.models.htdemucs.config import HTDemucsConfig, TransformerConfig

torch = pytest.importorskip("torch", reason="torch is not installed")
from hybrid_networks import UNET, make, random_inputs, run, shaken  # noqa: E402
from unbraid.models.htdemucs.sparse import (  # noqa: E402
    SparseAttend,
    attend_to_matches,
    fixed_mask,
    hash_buckets,
    least_matches,
)

Array = np.ndarray[Any, Any]
HASHED = TransformerConfig(auto_sparsity=True, sparsity=0.9)
N_FEATURES = 8


def drawn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clustered(n_batch: int, n_heads: int, n: int, seed: int = 0) -> Any:
    """Vectors near a few directions, so that pairs match in any number of rounds."""
    centres = drawn(1, 1, 5, N_FEATURES, seed=99)
    chosen = torch.randint(5, (n,), generator=torch.Generator().manual_seed(seed))
    return centres[:, :, chosen] + 0.7 * drawn(n_batch, n_heads, n, N_FEATURES, seed=seed)


def n_matches(query: Array, key: Array, rotations: Array) -> Array:
    """In how many rounds the largest of [xR, -xR] has the same number: array (query, key)."""
    count = np.zeros((len(query), len(key)), int)
    for i in range(rotations.shape[1]):
        buckets = []
        for x in (query, key):
            along = x @ rotations[:, i]
            buckets.append(np.argmax(np.concatenate((along, -along), axis=1), axis=1))
        count += buckets[0][:, None] == buckets[1]
    return count


def dense(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """Attention over all pairs, of arrays (position, feature): the softmax of those in the mask alone."""
    weights = np.where(mask, np.exp(query @ key.T / np.sqrt(query.shape[1])), 0)
    sums = weights.sum(1, keepdims=True)
    y: Array = weights @ value / np.where(sums == 0, 1, sums)
    return y


def dense_in_torch(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """The same for tensors (batch, head, position, feature), to be differentiated by autograd."""
    weights = (query @ key.mT / query.shape[3] ** 0.5).exp() * mask
    return weights @ value / weights.sum(3, keepdim=True).clamp_min(1e-300)


def hashed(query: Any, key: Any, sparsity: float) -> tuple[Any, Any, Any]:
    rotations = drawn(N_FEATURES, 32, 2, seed=5)
    buckets = hash_buckets(query, rotations), hash_buckets(key, rotations)
    return *buckets, least_matches(*buckets, sparsity)


def test_buckets() -> None:
    x, rotations = drawn(1, 2, 1500, N_FEATURES), drawn(N_FEATURES, 32, 2, seed=1)
    found = hash_buckets(x, rotations)
    assert (found.shape, found.dtype) == ((1, 2, 1500, 32), torch.uint8)
    for i in range(32):
        along = x.numpy() @ rotations[:, i].numpy()
        np.testing.assert_array_equal(found[..., i], np.argmax(np.concatenate((along, -along), axis=-1), axis=-1))
    assert [int((found == bucket).sum()) for bucket in range(4)] == pytest.approx([24000] * 4, rel=0.1)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n_queries", [512, 130, 7])  # whole tiles of queries, a last one that is not, less than one
def test_as_many_rounds_match_as_sparsity_wants(sparsity: float, n_queries: int) -> None:
    query, key = clustered(2, 3, n_queries), clustered(2, 3, 90, seed=1)
    query_buckets, key_buckets, least = hashed(query, key, sparsity)
    rotations = drawn(N_FEATURES, 32, 2, seed=5).numpy()
    assert least.shape == (2, 3)
    for example in range(2):
        for head in range(3):
            expected = n_matches(query[example, head].numpy(), key[example, head].numpy(), rotations)
            same = query_buckets[example, head, :, None] == key_buckets[example, head]
            np.testing.assert_array_equal(same.sum(2), expected)
            found = int(least[example, head])
            assert 0 < found <= 32
            assert np.mean(expected < found) >= sparsity
            assert np.mean(expected < found - 1) < sparsity


def test_heads_choose_by_themselves() -> None:
    key = torch.cat((clustered(1, 1, 200), drawn(1, 1, 200, N_FEATURES)), dim=1)
    *_, least = hashed(key, key, 0.9)
    assert least[0, 0] > least[0, 1] + 2


def test_pairs_are_kept_where_all_match() -> None:
    key = drawn(1, 1, 1, N_FEATURES).expand(1, 1, 40, N_FEATURES)
    *_, least = hashed(key, key, 0.9)
    assert least.tolist() == [[32]]
    *_, least = hashed(drawn(1, 1, 40, N_FEATURES), key, 0)
    assert least.tolist() == [[0]]


def test_some_queries_stand_for_many() -> None:
    state = torch.get_rng_state()
    # Every fourth query and most of the first match few keys: a regular choice, or the first 512, would tell of these.
    query, key = clustered(1, 1, 2000), clustered(1, 1, 300, seed=1)
    query[:, :, :600] *= -1
    query[:, :, ::4] *= -1
    query_buckets, key_buckets, least = hashed(query, key, 0.9)
    count = (query_buckets[0, 0, :, None] == key_buckets[0, 0]).sum(2).numpy()
    assert np.mean(count < int(least)) >= 0.89
    assert np.mean(count < int(least) - 1) < 0.91
    *_, again = hashed(query, key, 0.9)
    assert torch.equal(least, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("n_queries", "n_keys"), [(300, 77), (128, 260), (5, 3)])
def test_equal_to_dense_attention_under_a_mask(n_queries: int, n_keys: int) -> None:
    query, key, value = clustered(2, 3, n_queries), clustered(2, 3, n_keys, seed=1), drawn(2, 3, n_keys, N_FEATURES)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    query_buckets, key_buckets, _ = hashed(query.detach(), key.detach(), 0.9)
    least = torch.tensor([[12, 20, 9], [14, 33, 0]])  # 33: never, 0: always
    mask = (query_buckets[:, :, :, None] == key_buckets[:, :, None]).sum(4) >= least[..., None, None]
    kept = mask.any(3)
    assert not kept.all()
    assert 0.02 < mask[:, 0].double().mean() < 0.3 or n_queries < 10
    found = attend_to_matches(*inputs, query_buckets, key_buckets, least)
    for example in range(2):
        for head in range(3):
            arrays = (x[example, head].detach().numpy() for x in inputs)
            expected = dense(*arrays, mask[example, head].numpy())
            np.testing.assert_allclose(found[example, head].detach(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[~kept], torch.zeros_like(found[~kept]))
    gradient = drawn(*found.shape, seed=7)
    expected_gradients = torch.autograd.grad(dense_in_torch(*inputs, mask), inputs, gradient)
    for ours, expected in zip(torch.autograd.grad(found, inputs, gradient), expected_gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


def test_gradients_beside_differences() -> None:
    inputs = [clustered(1, 2, 9), clustered(1, 2, 11, seed=1), drawn(1, 2, 11, N_FEATURES)]
    chosen = hashed(inputs[0], inputs[1], 0.7)
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *given: attend_to_matches(*given, *chosen), inputs, fast_mode=True)


def test_nothing_as_large_as_the_pairs_is_kept_for_gradients() -> None:
    n = 400
    inputs = [clustered(1, 2, n, seed=seed).requires_grad_() for seed in range(3)]
    kept: list[int] = []

    def keep(x: Any) -> Any:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = SparseAttend(HASHED)(*inputs, 0.0)
    assert y.requires_grad
    # Queries, keys, values, 32 buckets of queries and of keys, and a number per head: of 2 heads each.
    assert sorted(kept) == [2] + 3 * [2 * n * N_FEATURES] + 2 * [2 * n * 32]


def attended(config: TransformerConfig, *inputs: Any, dropout: float = 0, training: bool = False) -> Any:
    module = SparseAttend(config)
    return module.train(training)(*inputs, dropout)


@pytest.mark.parametrize("sparsity", [0.9, 0.5])
def test_hashed_attention_written_out(sparsity: float) -> None:
    config = replace(HASHED, sparsity=sparsity, mask_random_seed=11)
    query, key, value = clustered(2, 2, 140), clustered(2, 2, 60, seed=1), drawn(2, 2, 60, N_FEATURES)
    found = attended(config, query, key, value)
    rotations = torch.randn(N_FEATURES, 32, 2, generator=torch.Generator().manual_seed(11)).double().numpy()
    for example in range(2):
        for head in range(2):
            arrays = [x[example, head].numpy() for x in (query, key, value)]
            count = n_matches(arrays[0], arrays[1], rotations)
            least = next(k for k in range(33) if np.mean(count < k) >= sparsity)
            np.testing.assert_allclose(found[example, head], dense(*arrays, count >= least), rtol=1e-12, atol=1e-12)


def test_no_sparsity_is_dense_attention() -> None:
    query, key, value = (drawn(2, 3, 40, N_FEATURES, seed=seed) for seed in range(3))
    found = attended(replace(HASHED, sparsity=0), query, key, value)
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(query, key, value))


def test_an_example_is_separated_alike_in_every_batch() -> None:
    inputs = clustered(3, 2, 200), clustered(3, 2, 150, seed=1), drawn(3, 2, 150, N_FEATURES)
    together = attended(HASHED, *inputs)
    for i in range(3):
        torch.testing.assert_close(attended(HASHED, *(x[i : i + 1] for x in inputs)), together[i : i + 1])


def test_new_rotations_in_training_only() -> None:
    inputs = clustered(1, 2, 100), clustered(1, 2, 100, seed=1), drawn(1, 2, 100, N_FEATURES)
    state = torch.get_rng_state()
    assert torch.equal(attended(HASHED, *inputs), attended(HASHED, *inputs))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(attended(HASHED, *inputs), attended(replace(HASHED, mask_random_seed=1), *inputs))
    torch.manual_seed(0)
    first, second = (attended(HASHED, *inputs, training=True) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(first, attended(HASHED, *inputs, training=True))
    assert not torch.equal(first, second)


def naive_mask(name: str, config: TransformerConfig, n_queries: int, n_keys: int) -> Array:
    """As docs of the original program's options have it, pair by pair."""
    mask = np.zeros((n_queries, n_keys), bool)
    ratio = n_keys / n_queries
    if name == "random":
        generator = torch.Generator().manual_seed(config.mask_random_seed)
        mask[:] = torch.rand(n_queries * n_keys, generator=generator).view(n_queries, n_keys) > config.sparsity
        return mask
    for i in range(n_queries):
        for j in range(n_keys):
            if name == "global":
                mask[i, j] = j < config.global_window or i < int(config.global_window * n_queries / n_keys)
            elif name == "diag":
                window = range(-config.sparse_attn_window, config.sparse_attn_window + 1)
                mask[i, j] = any(min(max(int(ratio * i + d), 0), n_keys - 1) == j for d in window)
            else:
                steps = [t * (t + 1) // 2 for t in range(int((2 * n_keys) ** 0.5 + 1))]
                mask[i, j] = any(int(ratio * (i + 1) + sign * t) == j + 1 for t in steps for sign in (-1, 1))
    return mask


@pytest.mark.parametrize("mask_type", ["diag", "jmask", "random", "global", "diag_jmask", "random_global_diag"])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(20, 20), (24, 12), (10, 40)])
def test_fixed_masks(mask_type: str, n_queries: int, n_keys: int) -> None:
    config = TransformerConfig(mask_type=mask_type, sparse_attn_window=3, global_window=2, mask_random_seed=7)
    found = fixed_mask(config, n_queries, n_keys, torch.device("cpu")).numpy()
    expected = np.any([naive_mask(name, config, n_queries, n_keys) for name in mask_type.split("_")], axis=0)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("mask_type", ["diag", "random"])
def test_attention_under_fixed_masks(mask_type: str) -> None:
    config = TransformerConfig(mask_type=mask_type, sparse_attn_window=1, sparsity=0.9)
    query, key, value = (clustered(2, 2, n, seed=n).requires_grad_() for n in (30, 20, 20))
    mask = naive_mask(mask_type, config, 30, 20)
    assert mask.any(1).all() == (mask_type == "diag")  # "random" leaves queries without keys
    found = attended(config, query, key, value)
    for example in range(2):
        for head in range(2):
            arrays = (x[example, head].detach().numpy() for x in (query, key, value))
            np.testing.assert_allclose(found[example, head].detach(), dense(*arrays, mask), rtol=1e-12, atol=1e-12)
    inputs = (query, key, value)
    expected = torch.autograd.grad(dense_in_torch(*inputs, torch.from_numpy(mask)).square().sum(), inputs)
    for ours, other in zip(torch.autograd.grad(found.square().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(ours, other)


def test_dropout_of_weights_under_fixed_masks_only() -> None:
    inputs = clustered(1, 2, 60), clustered(1, 2, 60, seed=1), torch.ones(1, 2, 60, N_FEATURES, dtype=torch.float64)
    found = attended(TransformerConfig(sparse_attn_window=10), *inputs, dropout=0.5)
    assert found.std() > 0.1  # sums of the weights that are left, of which each counts twice
    assert float(found.mean()) == pytest.approx(1, abs=0.15)
    assert torch.equal(attended(HASHED, *inputs), attended(HASHED, *inputs, dropout=0.5))


@pytest.mark.parametrize("auto", [True, False])
def test_half_precision_is_near(auto: bool) -> None:
    config = replace(HASHED, auto_sparsity=auto, sparse_attn_window=20)
    inputs = [clustered(1, 2, 200, seed=seed).bfloat16() for seed in range(3)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attended(config, *inputs)
    assert found.dtype == torch.bfloat16
    expected = attended(config, *(x.double() for x in inputs))
    assert (found.double() - expected).norm() / expected.norm() < 0.01


def test_gradients_of_float32_are_so_under_autocast() -> None:
    inputs = [clustered(1, 2, 100, seed=seed).float().requires_grad_() for seed in range(3)]
    expected = torch.autograd.grad(attended(HASHED, *inputs).square().sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(attended(HASHED, *inputs).square().sum(), inputs)
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other)


def test_gradients_in_half_precision_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbraid.models.htdemucs.sparse._N_ROWS", 1)  # as many sums as there are queries
    inputs = [clustered(1, 1, n, seed=n).bfloat16() for n in (600, 5, 5)]
    chosen = hashed(*inputs[:2], 0)
    found, expected = (
        torch.autograd.grad(attend_to_matches(*given, *chosen).sum(), given)
        for given in ([x.to(dtype).requires_grad_() for x in inputs] for dtype in (torch.bfloat16, torch.float64))
    )
    assert (found[2].double() - expected[2]).norm() < 0.01 * expected[2].norm()
    assert (found[1].double() - expected[1]).norm() < 0.05 * expected[1].norm()


def network(**options: Any) -> tuple[Any, HTDemucsConfig]:
    transformer = TransformerConfig(
        n_layers=3, n_heads=2, sparse_self_attn=True, sparse_cross_attn=True, layer_scale=False, **options
    )
    config = HTDemucsConfig(("a", "b"), **UNET, depth=2, bottom_channels=16, transformer=transformer)
    return shaken(make(config)), config


@pytest.mark.parametrize("options", [{"auto_sparsity": True, "sparsity": 0.9}, {"sparse_attn_window": 4}])
def test_whole_network(options: dict[str, Any]) -> None:
    module, config = network(**options)
    inputs = random_inputs(config, 480, n_batch=2)
    outputs = run(module, *inputs)
    for found, again, other in zip(outputs, run(module, *inputs), run(network()[0], *inputs), strict=True):
        assert torch.isfinite(found).all()
        assert torch.equal(found, again)
        assert (found - other).norm() > 1e-3 * other.norm()  # other masks change what comes out
    # In double precision, in which hardly any rounding moves a vector into another bucket.
    doubles = [x.double() for x in inputs]
    module.double()
    for found, expected in zip(run(module, *(x[1:] for x in doubles)), run(module, *doubles), strict=True):
        torch.testing.assert_close(found, expected[1:])
    module.float()
    sum(y.square().mean() for y in module.train()(*inputs)).backward()
    for name, parameter in module.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        # Biases of keys add the same to all scores of a query.
        assert (parameter.grad.norm() > 1e-9) or name.endswith("attn.k.bias"), name
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = run(module.eval(), *inputs)
        sum(y.square().mean() for y in module.train()(*inputs)).backward()
    # Rounding moves vectors into other buckets, so that a query keeps others of its keys.
    most = 0.8 if config.transformer.auto_sparsity else 0.05
    assert all((half - y).norm() < most * y.norm() for half, y in zip(halves, outputs, strict=True))
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())
