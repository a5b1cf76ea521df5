"""Prefix linear attention, the layer of JRT-RNN that reads a prefix non-causally."""

from torch import Tensor, nn

from unending.core.errors import InputError
from unending.parts import linear_attention
from unending.parts.linear_attention import LinearState, Taylor
from unending.systems.language.jrt.layers import heads_apart, heads_joined

__all__ = ["PrefixLinearAttention"]


class PrefixLinearAttention(nn.Module):
    """Prefix linear attention (PLA): the first tokens are read non-causally, all others causally, into one state.

    `y_i = Q_i (S_e + sum_(j<=i) K_j v_j) / (Q_i . (z_e + sum_(j<=i) K_j) + eps)` at every position, where
    `S_e = sum_(j<M) Ke_j ve_j` and `z_e = sum_(j<M) Ke_j` come from projections of their own. Arora et al. 2024,
    arXiv 2407.05483. With `enc_length=0` it is causal Based linear attention.

    Parameters
    ----------
    d_model, n_heads, feature_dim
        width, heads, and width of a query before the Taylor feature map.
    enc_length
        M: tokens of the prefix that is read non-causally.
    share_encoder_projections
        encoder keys and values by the decoder's weights (the synthetic task only).
    mask_after_feature_map
        where padding is masked; see `JRTConfig`.

    Raises
    ------
    InputError
        if the width does not divide by the heads.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        feature_dim: int = 16,
        enc_length: int = 1024,
        *,
        share_encoder_projections: bool = False,
        mask_after_feature_map: bool = True,
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise InputError(f"a width of {d_model} does not divide by {n_heads} heads")
        self.n_heads, self.enc_length, self.mask_after = n_heads, enc_length, mask_after_feature_map
        self.head_dim = d_model // n_heads
        self.feature_map = Taylor(feature_dim)
        self.q_proj = nn.Linear(d_model, n_heads * feature_dim, bias=False)
        self.k_proj = nn.Linear(d_model, n_heads * feature_dim, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        if not share_encoder_projections:
            self.k_enc_proj = nn.Linear(d_model, n_heads * feature_dim, bias=False)
            self.v_enc_proj = nn.Linear(d_model, d_model, bias=False)
        self.shared = share_encoder_projections
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def empty(self, batch: int = 1) -> LinearState:
        """The state before the first token."""
        weight = self.o_proj.weight
        sizes = (batch, self.n_heads, self.feature_map.size, self.head_dim)
        return linear_attention.empty(*sizes, weight.dtype, weight.device)

    def _masked(self, k: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Keys, and what is to be masked of them after the feature map."""
        if keep is None or self.mask_after:
            return k, keep
        return k * keep[:, None, :, None].to(k.dtype), None

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[batch, heads, n, ...]`."""
        q, k, v = (heads_apart(each(x), self.n_heads) for each in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the prefix."""
        k, v = (self.k_proj, self.v_proj) if self.shared else (self.k_enc_proj, self.v_enc_proj)
        return heads_apart(k(x), self.n_heads), heads_apart(v(x), self.n_heads)

    def encode(self, x: Tensor, keep: Tensor | None = None) -> LinearState:
        """`S_e` and `z_e` of prefix tokens `x` `[batch, m, d_model]`: sums, so the order does not matter."""
        k, v = self._encoded(x)
        keys, kept = self._masked(k, keep)
        return linear_attention.absorb(keys, v, self.feature_map, keep=kept)

    def prefill(
        self, x: Tensor, keep: Tensor | None = None, enc_length: int | None = None
    ) -> tuple[Tensor, LinearState]:
        """The beginning of a stream: outputs `[batch, n, d_model]` and the state after it.

        It must be one call: the outputs of the prefix depend on all of it.

        Parameters
        ----------
        x
            `[batch, n, d_model]`.
        keep
            bool `[batch, n]`: tokens that are not padding.
        enc_length
            tokens to read non-causally, `self.enc_length` without it; more than n means n.
        """
        m = min(self.enc_length if enc_length is None else enc_length, x.shape[1])
        start = self.encode(x[:, :m], None if keep is None else keep[:, :m]) if m else None
        return self.extend(x, start, keep)

    def forward(self, x: Tensor, prefix_mask: Tensor | None = None, enc_length: int | None = None) -> Tensor:
        """Outputs of a whole sequence, for training; `prefix_mask` is `prefill`'s `keep`."""
        if x.shape[1] > self.feature_map.size:
            return self.prefill(x, prefix_mask, enc_length)[0]
        m = min(self.enc_length if enc_length is None else enc_length, x.shape[1])
        q, k, v = self._projected(x)
        keys, kept = self._masked(k, prefix_mask)
        prefix = None
        if m:
            k_enc, v_enc = self._encoded(x[:, :m])
            prefix = self._masked(k_enc, None if prefix_mask is None else prefix_mask[:, :m])[0], v_enc
        y = linear_attention.pairwise(q, keys, v, self.feature_map, prefix=prefix, keep=kept)
        return self.o_proj(heads_joined(y))

    def extend(
        self, x: Tensor, start: LinearState | None, keep: Tensor | None = None, position: Tensor | None = None
    ) -> tuple[Tensor, LinearState]:
        """More tokens `[batch, n, d_model]` behind a state, read causally in chunk-parallel form."""
        q, k, v = self._projected(x)
        keys, kept = self._masked(k, keep)
        y, end = linear_attention.chunked(q, keys, v, self.feature_map, start=start, keep=kept)
        return self.o_proj(heads_joined(y)), end

    def step(
        self, x: Tensor, start: LinearState, position: Tensor | None = None
    ) -> tuple[Tensor, LinearState]:
        """One token `[batch, d_model]` in recurrent form, O(heads * features * head_dim)."""
        q, k, v = (
            each(x).unflatten(-1, (self.n_heads, -1)) for each in (self.q_proj, self.k_proj, self.v_proj)
        )
        y, end = linear_attention.step(q, k, v, self.feature_map, start)
        return self.o_proj(y.flatten(1)), end
