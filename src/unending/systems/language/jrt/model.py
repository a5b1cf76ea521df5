"""JRT-RNN as a transformers model: a hybrid of gated convolutions, window attention and prefix linear attention."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel, initialization
from transformers.modeling_outputs import CausalLMOutputWithPast

from unending.parts.linear_attention import wide
from unending.systems.language.jrt.configuration import JRTConfig
from unending.systems.language.jrt.layers import BaseConv, RMSNorm, SwiGLU
from unending.systems.language.jrt.memory import JRTCache, JRTMemory
from unending.systems.language.jrt.objective import prefix_lm_mlm_loss
from unending.systems.language.jrt.prefix_attention import PrefixLinearAttention
from unending.systems.language.jrt.sliding_attention import SlidingAttention

__all__ = ["JRTForCausalLM", "JRTModel"]


def _mixer(config: JRTConfig, layer: int) -> PrefixLinearAttention | SlidingAttention | BaseConv:
    kind, width, heads = config.mixer(layer), config.hidden_size, config.num_attention_heads
    if kind == "linear":
        return PrefixLinearAttention(
            width,
            heads,
            config.feature_dim,
            config.enc_length,
            share_encoder_projections=config.share_encoder_projections,
            mask_after_feature_map=config.mask_after_feature_map,
        )
    if kind == "window":
        return SlidingAttention(width, heads, config.window, config.rope_theta)
    return BaseConv(width, config.conv_kernel)


class JRTBlock(nn.Module):
    """One layer: mixer and MLP, each behind a norm, on a wide residual."""

    def __init__(self, config: JRTConfig, layer: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixer = _mixer(config, layer)
        self.mlp: SwiGLU | None = None
        if config.intermediate_size:
            self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def _after(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = hidden + mixed
        return hidden if self.mlp is None else hidden + self.mlp(self.mlp_norm(hidden))

    def forward(self, hidden: Tensor, keep: Tensor | None, enc_length: int) -> Tensor:
        """A whole sequence, without a state."""
        return self._after(hidden, self.mixer(self.mixer_norm(hidden), keep, enc_length))

    def prefill(self, hidden: Tensor, keep: Tensor | None, enc_length: int) -> tuple[Tensor, Any]:
        """The beginning of a stream, as the mixer's `prefill`."""
        mixed, end = self.mixer.prefill(self.mixer_norm(hidden), keep, enc_length)
        return self._after(hidden, mixed), end

    def extend(self, hidden: Tensor, start: Any, position: Tensor) -> tuple[Tensor, Any]:
        """More of it, as the mixer's `extend`."""
        mixed, end = self.mixer.extend(self.mixer_norm(hidden), start, None, position)
        return self._after(hidden, mixed), end

    def step(self, hidden: Tensor, start: Any, position: Tensor) -> tuple[Tensor, Any]:
        """One token, as the mixer's `step`."""
        mixed, end = self.mixer.step(self.mixer_norm(hidden), start, position)
        return self._after(hidden, mixed), end


class JRTPreTrainedModel(PreTrainedModel):
    """Initialisation and what transformers needs to know."""

    config_class = JRTConfig
    base_model_prefix = "model"
    _no_split_modules: ClassVar[Any] = ["JRTBlock"]
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights, those that write to the residual smaller by the root of twice the layers (GPT-2)."""
        super()._init_weights(module)
        if isinstance(module, RMSNorm):
            initialization.ones_(module.weight)
        last = getattr(module, "o_proj", None) or getattr(module, "out_proj", None)
        last = last or getattr(module, "down_proj", None)
        if isinstance(last, nn.Linear):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            initialization.normal_(last.weight, std=std)
        if isinstance(module, BaseConv):
            initialization.uniform_(module.conv.weight, -(module.kernel**-0.5), module.kernel**-0.5)


class JRTModel(JRTPreTrainedModel):
    """Token ids to hidden states, and the memory behind them."""

    def __init__(self, config: JRTConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers: Any = nn.ModuleList(JRTBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: Any) -> None:
        self.embed_tokens = value

    def empty(self, batch: int = 1) -> JRTMemory:
        """The memory before the first token."""
        position = torch.zeros(batch, dtype=torch.int64, device=self.device)
        return JRTMemory(tuple(layer.mixer.empty(batch) for layer in self.layers), position)

    def _embedded(self, ids: Tensor) -> Tensor:
        hidden = self.embed_tokens(ids)
        return hidden.to(wide(hidden.dtype))

    def forward(self, ids: Tensor, keep: Tensor | None = None, enc_length: int | None = None) -> Tensor:
        """Hidden states `[batch, n, width]` of whole sequences, as `prefill` without the memory."""
        hidden = self._embedded(ids)
        for layer in self.layers:
            hidden = layer(hidden, keep, self.config.enc_length if enc_length is None else enc_length)
        return self.norm(hidden)

    def prefill(
        self, ids: Tensor, keep: Tensor | None = None, enc_length: int | None = None
    ) -> tuple[Tensor, JRTMemory]:
        """The beginning of streams, ids `[batch, n]`, in one call; hidden states `[batch, n, width]` and the memory.

        Parameters
        ----------
        ids, keep
            token ids, and bool `[batch, n]`: which are not padding (which stands on the left).
        enc_length
            tokens to read non-causally, the configuration's without it; all of them, if n is less.
        """
        hidden, ends = self._embedded(ids), []
        m = self.config.enc_length if enc_length is None else enc_length
        # Whole layers one after the other: the prefix of a layer must be complete before any output of it.
        for layer in self.layers:
            hidden, end = layer.prefill(hidden, keep, m)
            ends.append(end)
        position = torch.full((len(ids),), ids.shape[1], dtype=torch.int64, device=ids.device)
        return self.norm(hidden), JRTMemory(tuple(ends), position)

    def extend(self, ids: Tensor, memory: JRTMemory) -> tuple[Tensor, JRTMemory]:
        """More tokens `[batch, n]`, causally; hidden states `[batch, n, width]` and the new memory."""
        hidden, ends = self._embedded(ids), []
        for layer, start in zip(self.layers, memory.layers, strict=True):
            hidden, end = layer.extend(hidden, start, memory.position)
            ends.append(end)
        return self.norm(hidden), JRTMemory(tuple(ends), memory.position + ids.shape[1])

    def step(self, ids: Tensor, memory: JRTMemory) -> tuple[Tensor, JRTMemory]:
        """One token of each stream, ids `[batch]`; hidden states `[batch, width]` and the new memory."""
        hidden, ends = self._embedded(ids), []
        for layer, start in zip(self.layers, memory.layers, strict=True):
            hidden, end = layer.step(hidden, start, memory.position)
            ends.append(end)
        return self.norm(hidden), JRTMemory(tuple(ends), memory.position + 1)


class JRTForCausalLM(JRTPreTrainedModel, GenerationMixin):
    """JRT-RNN, a recurrent language model that reads a prefix non-causally (Arora et al. 2024, arXiv 2407.05483).

    `AutoModelForCausalLM.from_pretrained` loads it once this module is imported; `generate` works with a memory of
    constant size.
    """

    _tied_weights_keys: ClassVar[Any] = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: JRTConfig) -> None:
        super().__init__(config)
        self.model = JRTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The head, whose weights may be those of the embedding."""
        return self.lm_head

    def set_output_embeddings(self, value: Any) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: JRTCache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        masked: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits `[batch, n, vocabulary]` of ids `[batch, n]`, and the memory after them.

        Parameters
        ----------
        attention_mask
            int or bool `[batch, n]`, 0 at the padding on the left; looked at in the first call only.
        past_key_values
            what came before. Without it, or empty, the first `enc_length` tokens are read non-causally, so the
            first call must hold all of the prefix.
        labels
            int64 `[batch, n]`, the true token ids: next-token loss behind the prefix.
        masked
            bool `[batch, m]`: prefix tokens that `masked_prefix` has hidden in `input_ids`; adds the masked loss.
        """
        if past_key_values is None and use_cache:
            past_key_values = JRTCache()
        keep = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
        if past_key_values is None:
            hidden = self.model(input_ids, keep)
        elif past_key_values.memory is None:
            hidden, past_key_values.memory = self.model.prefill(input_ids, keep)
        else:
            hidden, past_key_values.memory = self.model.extend(input_ids, past_key_values.memory)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        loss = None
        if labels is not None:
            weight = self.config.mlm_weight
            loss = prefix_lm_mlm_loss(logits, labels, self.config.enc_length, masked, mlm_weight=weight)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: JRTCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool = True,
        logits_to_keep: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What `generate` passes on; `kwargs` (position ids and the like) have no meaning here."""
        if use_cache and past_key_values is not None and past_key_values.memory is not None:
            new = next_sequence_length or input_ids.shape[1] - past_key_values.get_seq_length()
            input_ids, attention_mask = input_ids[:, -new:], None
        return {
            "input_ids": input_ids.contiguous(),
            "attention_mask": attention_mask,
            "past_key_values": past_key_values if use_cache else None,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep or 0,
        }


AutoConfig.register(JRTConfig.model_type, JRTConfig, exist_ok=True)
AutoModelForCausalLM.register(JRTConfig, JRTForCausalLM, exist_ok=True)
