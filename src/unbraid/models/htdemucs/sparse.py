"""Sparse attention of HT Demucs: every position attends to some of the others.

Which ones, hashing says, after S. Rouard et al., "Hybrid Transformers for music source separation", ICASSP 2023,
section 3, in memory that grows with the positions and not with their pairs; or a mask that does not depend on the
input, one of the original program's options. A position that attends to none gets zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from unbraid.models.htdemucs.config import TransformerConfig

__all__ = ["SparseAttend", "attend_to_matches", "fixed_mask", "hash_buckets", "least_matches"]

N_ROUNDS: Final = 32
N_BUCKETS: Final = 4

_N_ROWS: Final = 64  # queries whose pairs with all keys are in memory at a time
_N_HASHED: Final = 1024  # vectors that are hashed at a time
_N_SAMPLED: Final = 512  # queries that tell how many rounds must match; all where there are fewer


class SparseAttend(nn.Module):
    """Attention to the positions that a configuration chooses by `auto_sparsity` and the fields after it.

    In training every call hashes by new rotations, drawn by PyTorch's own generator; otherwise all calls hash by those
    of `mask_random_seed`. There are no parameters.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Attend.

        query : tensor [shape=(batch, head, n_queries, feature)]
        key, value : tensors [shape=(batch, head, n_keys, feature)]
        dropout : of the weights under fixed masks; upstream has none where it hashes
        returns : tensor of the shape of `query`
        """
        if not self.config.auto_sparsity:
            mask = fixed_mask(self.config, query.shape[2], key.shape[2], query.device)
            return _attend_where(query, key, value, _bias(mask.to(query.dtype) - 1), dropout)
        with torch.autocast(query.device.type, enabled=False):
            rotations = self._rotations(query.shape[3]).to(query.device)
            query_buckets = hash_buckets(query.detach(), rotations)
            key_buckets = hash_buckets(key.detach(), rotations)
            least = least_matches(query_buckets, key_buckets, self.config.sparsity)
            return attend_to_matches(query, key, value, query_buckets, key_buckets, least)

    def _rotations(self, n_features: int) -> Tensor:
        # By the processor whatever the device, so that all devices separate alike.
        generator = None if self.training else torch.Generator().manual_seed(self.config.mask_random_seed)
        return torch.randn(n_features, N_ROUNDS, N_BUCKETS // 2, generator=generator)


def hash_buckets(x: Tensor, rotations: Tensor) -> Tensor:
    """Find each vector's bucket in every round: the nearest of some random axes and their opposites.

    After A. Andoni et al., "Practical and optimal LSH for angular distance", NeurIPS 2015.

    x : tensor [shape=(batch, head, n, feature)]
    rotations : tensor [shape=(feature, round, bucket / 2)], the axes
    returns : tensor [shape=(batch, head, n, round), uint8]
    """
    # Numbers of 16 bits would often be equal, and the first axis the nearest.
    dtype = torch.promote_types(x.dtype, torch.float32)
    buckets = torch.empty(*x.shape[:3], rotations.shape[1], dtype=torch.uint8, device=x.device)
    for start in range(0, x.shape[2], _N_HASHED):
        rows = slice(start, start + _N_HASHED)
        along = torch.tensordot(x[:, :, rows].to(dtype), rotations.to(dtype), dims=1)
        buckets[:, :, rows] = torch.cat((along, -along), dim=-1).argmax(-1)
    return buckets


def least_matches(query_buckets: Tensor, key_buckets: Tensor, sparsity: float) -> Tensor:
    """Find in how many rounds pairs must match so that at least a fraction `sparsity` of them is left out.

    Each head of each example has its own number, so that an example is separated alike in every batch. 512 queries
    stand for all. Where even the pairs that match in all rounds are too many, these are kept.

    query_buckets, key_buckets : tensors [shape=(batch, head, n_queries or n_keys, round)]
    returns : tensor [shape=(batch, head), int64]
    """
    n_batch, n_heads, n_queries, n_rounds = query_buckets.shape
    # Drawn, since evenly spaced positions may all be of one bin; always alike, so that results are.
    sampled = torch.randperm(n_queries, generator=torch.Generator().manual_seed(0))[:_N_SAMPLED]
    sample = query_buckets.index_select(2, sampled.to(query_buckets.device))
    # Pairs by head and number of matches, then by head and at least so many matches.
    shape = (n_batch, n_heads, n_rounds + 1)
    n_pairs = torch.zeros(shape, dtype=torch.int64, device=sample.device)
    offsets = torch.arange(0, n_pairs.numel(), n_rounds + 1, device=sample.device).view(n_batch, n_heads, 1, 1)
    for _, n_matches in _matches(sample, key_buckets):
        bins = n_matches.add_(offsets).int().flatten()
        n_pairs += torch.bincount(bins, minlength=n_pairs.numel()).view(shape)
    n_pairs = n_pairs.flip(2).cumsum(2).flip(2)
    too_many = n_pairs > (1 - sparsity) * sample.shape[2] * key_buckets.shape[2]
    return too_many[..., :-1].sum(2)


def attend_to_matches(
    query: Tensor, key: Tensor, value: Tensor, query_buckets: Tensor, key_buckets: Tensor, least: Tensor
) -> Tensor:
    """Attend to the keys whose buckets are the query's in at least so many rounds.

    query, key, value : as `SparseAttend.forward` takes them
    query_buckets, key_buckets, least : as `least_matches` takes and gives them
    """
    y: Tensor = _AttentionToMatches.apply(  # type: ignore[no-untyped-call]
        query, key, value, query_buckets, key_buckets, least
    )
    return y


class _AttentionToMatches(torch.autograd.Function):
    """What `attend_to_matches` does. Only its arguments are kept for backward; the rest is computed again there."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, query_buckets: Tensor, key_buckets: Tensor, least: Tensor
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, query_buckets, key_buckets, least)
        y = torch.empty_like(query)
        for rows, bias in _biases(query_buckets, key_buckets, least, query.dtype):
            y[:, :, rows] = _attend_where(query[:, :, rows], key, value, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, query_buckets, key_buckets, least = ctx.saved_tensors
        to_query = torch.empty_like(query)
        # Sums of many terms, too many for 16 bits.
        to_key, to_value = (
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (key, value)
        )
        for rows, bias in _biases(query_buckets, key_buckets, least, query.dtype):
            leaves = tuple(x.detach().requires_grad_() for x in (query[:, :, rows], key, value))
            with torch.enable_grad(), torch.autocast(query.device.type, enabled=False):
                y = _attend_where(leaves[0], leaves[1], leaves[2], bias)
            gradients = torch.autograd.grad(y, leaves, gradient[:, :, rows])
            to_query[:, :, rows] = gradients[0]
            to_key += gradients[1]
            to_value += gradients[2]
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None, None, None


def _matches(query_buckets: Tensor, key_buckets: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Go through the queries, a few at a time.

    rows : the queries
    n_matches : tensor [shape=(batch, head, row, n_keys), float32], rounds in which query and key share a bucket
    """
    key_codes = _codes(key_buckets).transpose(2, 3)
    for start in range(0, query_buckets.shape[2], _N_ROWS):
        rows = slice(start, start + _N_ROWS)
        yield rows, _codes(query_buckets[:, :, rows]) @ key_codes


def _codes(buckets: Tensor) -> Tensor:
    """Turn buckets into vectors whose products count the matches: 1 for a round's bucket, 0 for its others."""
    numbers = torch.arange(N_BUCKETS, dtype=torch.uint8, device=buckets.device)
    return (buckets[..., None] == numbers).flatten(3).float()


def _biases(
    query_buckets: Tensor, key_buckets: Tensor, least: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Go through the queries likewise, with what `_attend_where` wants."""
    for rows, n_matches in _matches(query_buckets, key_buckets):
        # Arithmetic in place: processors take several times as long for truth values.
        yield rows, _bias(n_matches.sub_(least[..., None, None]).clamp_(-1, 0).to(dtype))


def _bias(lowered: Tensor) -> Tensor:
    """Turn -1 into the bias of scores that leaves a pair out, in place; 0, which keeps it, remains.

    It is finite, so that a query without keys gets numbers and not quotients of nothing.
    """
    return lowered.mul_(torch.finfo(lowered.dtype).max / 2)


def _attend_where(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, dropout: float = 0) -> Tensor:
    """Attend where a bias of the scores, tensor [shape=(…, n_queries, n_keys)], is 0."""
    y = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    return y * (bias.amax(-1, keepdim=True) == 0)


@lru_cache(maxsize=4)  # the four pairs of lengths that the layers of a network have
def fixed_mask(config: TransformerConfig, n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """Join the masks that `config.mask_type` names: tensor [shape=(n_queries, n_keys), bool].

    "global" : the first queries attend to all keys, and all queries to the first keys
    "diag" : to the keys at the same place in time, and a window around it
    "jmask" : to the keys at distances 0, 1, 3, 6, 10 … from there
    "random" : to keys drawn by `mask_random_seed`
    """
    masks = [_one_mask(name, config, n_queries, n_keys) for name in config.mask_type.split("_")]
    return torch.stack(masks).any(0).to(device)


def _one_mask(name: str, config: TransformerConfig, n_queries: int, n_keys: int) -> Tensor:
    rows = torch.arange(n_queries)[:, None]
    if name == "global":
        n_rows = int(config.global_window * n_queries / n_keys)
        return (rows < n_rows) | (torch.arange(n_keys) < config.global_window)
    if name == "random":
        generator = torch.Generator().manual_seed(config.mask_random_seed)
        return torch.rand(n_queries * n_keys, generator=generator).view(n_queries, n_keys) > config.sparsity
    # Upstream's "jmask" counts queries and keys from 1, which matters where there is not one key for every query.
    first = int(name == "jmask")
    if name == "diag":
        distances = torch.arange(-config.sparse_attn_window, config.sparse_attn_window + 1)
    else:
        steps = torch.arange(int((2 * n_keys) ** 0.5 + 1))
        distances = torch.cat((-steps, steps)) * (steps.repeat(2) + 1) // 2
    columns = (n_keys / n_queries * (rows + first) + distances).long()
    # What lies beyond the ends is the first or the last key in "diag" and nothing in "jmask".
    mask = torch.zeros(n_queries, n_keys + 2 * first, dtype=torch.bool)
    mask.scatter_(1, columns.clamp(0, mask.shape[1] - 1), True)
    return mask[:, first : first + n_keys]
