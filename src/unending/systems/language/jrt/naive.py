"""The slow reference of JRT: whole sequences by full matrices, no state; and a stream read that way."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from unending.core import Chunk, Event, Query, Rows, Text, Tokens
from unending.parts.backbones import LanguageBackbone
from unending.parts.linear_attention import EPS
from unending.parts.reading.answers import choose
from unending.systems.language.jrt.layers import BaseConv
from unending.systems.language.jrt.model import JRTForCausalLM
from unending.systems.language.jrt.prefix_attention import PrefixLinearAttention
from unending.systems.language.jrt.sliding_attention import SlidingAttention

__all__ = ["naive_logits", "naive_mixer", "offline"]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1)


def _linear(layer: PrefixLinearAttention, x: Tensor, m: int) -> Tensor:
    """Prefix linear attention by its definition: two weights for each pair of positions, one normaliser."""
    heads, phi, n = layer.n_heads, layer.feature_map, x.shape[1]
    encoder = (layer.k_proj, layer.v_proj) if layer.shared else (layer.k_enc_proj, layer.v_enc_proj)
    q, k, k_enc = (phi(_split(each(x), heads)) for each in (layer.q_proj, layer.k_proj, encoder[0]))
    v, v_enc = (_split(each(x), heads) for each in (layer.v_proj, encoder[1]))
    causal = torch.einsum("bihf,bjhf->bhij", q, k) * torch.ones(n, n).tril().to(x)
    prefix = torch.einsum("bihf,bjhf->bhij", q, k_enc) * (torch.arange(n) < m).to(x)
    total = causal.sum(dim=-1) + prefix.sum(dim=-1) + EPS
    y = torch.einsum("bhij,bjhd->bihd", causal, v) + torch.einsum("bhij,bjhd->bihd", prefix, v_enc)
    return layer.o_proj((y / total.transpose(1, 2)[..., None]).flatten(2))


def _window(layer: SlidingAttention, x: Tensor) -> Tensor:
    """Softmax attention in a band, with each pair of channels turned as a complex number."""
    heads, n, half = layer.n_heads, x.shape[1], layer.head_dim // 2
    frequencies = layer.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turns = torch.polar(torch.ones(n, half).double(), torch.arange(n)[:, None] * frequencies)[None, :, None]

    def turned(y: Tensor) -> Tensor:
        pairs = torch.complex(*_split(y, heads).double().chunk(2, dim=-1)) * turns
        return torch.cat([pairs.real, pairs.imag], dim=-1).to(y.dtype)

    q, k, v = turned(layer.q_proj(x)), turned(layer.k_proj(x)), _split(layer.v_proj(x), heads)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / layer.head_dim**0.5
    back = torch.arange(n)[:, None] - torch.arange(n)
    scores = scores.masked_fill((back < 0) | (back >= layer.window), -torch.inf)
    return layer.o_proj(torch.einsum("bhij,bjhd->bihd", scores.softmax(dim=-1), v).flatten(2))


def _conv(layer: BaseConv, x: Tensor) -> Tensor:
    """The gated convolution with the convolution of torch."""
    inner, gate = layer.in_proj(x).chunk(2, dim=-1)
    padded = nn.functional.pad(inner.transpose(1, 2), (layer.kernel - 1, 0))
    return layer.out_proj(nn.functional.silu(layer.conv(padded).transpose(1, 2)) * gate)


def naive_mixer(layer: Any, x: Tensor, m: int) -> Tensor:
    """Outputs of one mixer on `[batch, n, width]`, of which the first `m` are the prefix."""
    if isinstance(layer, PrefixLinearAttention):
        return _linear(layer, x, m)
    return _window(layer, x) if isinstance(layer, SlidingAttention) else _conv(layer, x)


@torch.no_grad()
def naive_logits(module: JRTForCausalLM, ids: Tensor, m: int) -> Tensor:
    """Logits `[batch, n, vocabulary]` of whole sequences `[batch, n]` with a prefix of `m` tokens."""
    hidden = module.model.embed_tokens(ids)
    for block in module.model.layers:
        hidden = hidden + naive_mixer(block.mixer, block.mixer_norm(hidden), m)
        if block.mlp is not None:
            hidden = hidden + block.mlp(block.mlp_norm(hidden))
    return module.lm_head(module.model.norm(hidden))


class _Reader(Protocol):
    """What the reference needs to know of the operator."""

    @property
    def prefix(self) -> int: ...
    @property
    def chunk(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def chat(self) -> bool: ...
    @property
    def backbone(self) -> LanguageBackbone: ...


class _Run:
    def __init__(self, operator: _Reader) -> None:
        self.operator, self.backbone = operator, operator.backbone
        self.ids: list[int] = []
        self.prefix = operator.prefix
        self.text, self.text_begins = "", 0.0
        self.rows: list[tuple[int, float]] = []
        self.arrived = 0
        self.time = 0.0
        self.events: list[Event] = []

    def tokenise(self) -> None:
        """The text since the last other chunk, as one string."""
        if self.text:
            if not self.arrived and not self.rows:
                self.rows += [(token, self.text_begins) for token in self.backbone.opening]
            tokenizer: Any = self.backbone.tokenizer
            encoded = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True)
            ends = [self.text_begins + end for _, end in encoded["offset_mapping"]]
            self.rows += list(zip(encoded["input_ids"], ends, strict=True))
            self.text = ""

    def score(self, *, everything: bool) -> None:
        """Losses behind the prefix, in blocks that end at multiples of the chunk."""
        while self.rows:
            wanted = self.operator.chunk - self.arrived % self.operator.chunk
            if len(self.rows) < wanted and not everything:
                return
            block, self.rows = self.rows[:wanted], self.rows[wanted:]
            self.arrived += len(block)
            begin = len(self.ids)
            self.ids += [token for token, _ in block]
            first = max(begin, self.prefix + 1)
            if first < len(self.ids):
                logits = naive_logits(self.backbone.module, torch.tensor([self.ids]), self.prefix)[0].float()
                targets = torch.tensor(self.ids[first:])
                losses = -logits[first - 1 : -1].log_softmax(dim=-1)[torch.arange(len(targets)), targets]
                ends = [end for _, end in block[first - begin :]]
                self.events.append(Event(Rows(losses.numpy()[:, None], ("loss",)), ends[0], ends[-1]))

    def end_of_prefix(self) -> None:
        self.tokenise()
        self.score(everything=True)
        self.prefix = min(self.prefix, len(self.ids))

    def answer(self, question: str) -> None:
        operator, said = self.operator, []
        self.ids += self.backbone.encode_turn(question, chat=operator.chat)
        for _ in range(operator.max_new_tokens):
            logits = naive_logits(self.backbone.module, torch.tensor([self.ids]), self.prefix)[0, -1].float()
            token = choose(logits, operator.temperature, 0, len(self.ids))
            self.ids.append(token)
            if token in self.backbone.stops:
                break
            said.append(token)
        if text := self.backbone.decode(said):
            self.events.append(Event(Text(text), self.time, self.time))


def offline(operator: _Reader, stream: Sequence[Chunk]) -> list[Event]:
    """The events of a whole stream under seed 0, without any state or re-blocking of the operator."""
    run = _Run(operator)
    for chunk in stream:
        run.time = run.time if chunk.t is None else chunk.t
        if isinstance(chunk, Text):
            if not run.text:
                run.text_begins = run.time
            run.text += chunk.text
        elif isinstance(chunk, Tokens) and len(chunk):
            run.tokenise()
            ends = run.time + torch.arange(1, len(chunk) + 1).double()
            run.rows += list(zip(chunk.ids.tolist(), ends.tolist(), strict=True))
        elif isinstance(chunk, Query):
            run.end_of_prefix()
            run.answer(chunk.text)
        run.time += len(chunk) * chunk.period
    run.end_of_prefix()
    return run.events
