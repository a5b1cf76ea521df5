"""The configuration of a JRT model, and the two layouts of the paper."""

from typing import Any, Self

from transformers import PreTrainedConfig

from unending.core.errors import InputError

__all__ = ["JRTConfig"]


class JRTConfig(PreTrainedConfig):
    """What a `JRTForCausalLM` is made of (Arora et al. 2024, arXiv 2407.05483).

    Parameters
    ----------
    vocab_size
        token ids, `mask_token_id` among them.
    hidden_size, num_hidden_layers, intermediate_size
        width, layers, and inner width of the SwiGLU (0: no MLP, as in the synthetic task).
    num_attention_heads, feature_dim
        heads of both attentions, and the width of a query of prefix linear attention.
    enc_length, dec_length
        M, the tokens of the prefix that is read non-causally (0 is the causal model, Based), and the tokens behind
        it in training.
    linear_layers, window_layers
        which layers are prefix linear attention and sliding-window attention; all others are `BaseConv`.
    window
        keys that a token sees in a sliding-window layer, itself among them.
    conv_kernel
        inputs of one output of `BaseConv`.
    share_encoder_projections
        keys and values of the prefix by the weights of the decoder; for the synthetic task only.
    mask_after_feature_map
        True: padding counts for nothing, exactly. False, for upstream checkpoints: keys of padding are put to zero
        before the feature map, so that their constant feature and their values still count.
    mlm_probability, mlm_weight
        of the training objective.
    mask_token_id, pad_token_id
        what stands for a hidden token, and what prompts are padded with on the left.

    Raises
    ------
    InputError
        if a layer is named twice or does not exist, or the width does not divide by the heads.
    """

    model_type = "jrt"

    def __init__(
        self,
        vocab_size: int = 50264,
        hidden_size: int = 1024,
        num_hidden_layers: int = 26,
        intermediate_size: int = 2048,
        num_attention_heads: int = 16,
        feature_dim: int = 16,
        enc_length: int = 1024,
        dec_length: int = 1024,
        linear_layers: list[int] | tuple[int, ...] = (1, 6, 11, 16, 21),
        window_layers: list[int] | tuple[int, ...] = (2, 7, 12, 17, 22),
        window: int = 256,
        conv_kernel: int = 3,
        rope_theta: float = 10_000.0,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        share_encoder_projections: bool = False,
        mask_after_feature_map: bool = True,
        mlm_probability: float = 0.15,
        mlm_weight: float = 0.25,
        mask_token_id: int = 50263,
        pad_token_id: int | None = 220,
        bos_token_id: int | None = None,
        eos_token_id: int | None = 50256,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.intermediate_size = intermediate_size
        self.num_attention_heads = num_attention_heads
        self.feature_dim = feature_dim
        self.enc_length = enc_length
        self.dec_length = dec_length
        self.linear_layers = list(linear_layers)
        self.window_layers = list(window_layers)
        self.window = window
        self.conv_kernel = conv_kernel
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        self.share_encoder_projections = share_encoder_projections
        self.mask_after_feature_map = mask_after_feature_map
        self.mlm_probability = mlm_probability
        self.mlm_weight = mlm_weight
        self.mask_token_id = mask_token_id
        self._require_sensible()
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,  # what transformers keeps in every configuration
        )

    def _require_sensible(self) -> None:
        named = sorted([*self.linear_layers, *self.window_layers])
        if len(set(named)) < len(named) or not all(0 <= each < self.num_hidden_layers for each in named):
            raise InputError(
                f"linear_layers and window_layers name each of the {self.num_hidden_layers} layers once at most,"
                f" got {self.linear_layers} and {self.window_layers}"
            )
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise InputError(
                f"hidden_size {self.hidden_size} is not {self.num_attention_heads} heads of an even width"
            )
        if min(self.enc_length, self.window - 1, self.conv_kernel - 1, self.feature_dim - 1) < 0:
            raise InputError("enc_length is 0 or more; window, conv_kernel and feature_dim are 1 or more")

    def mixer(self, layer: int) -> str:
        """What mixes tokens in that layer: "linear", "window" or "conv"."""
        if layer in self.linear_layers:
            return "linear"
        return "window" if layer in self.window_layers else "conv"

    @classmethod
    def jrt_360m(cls) -> Self:
        """The layout of 360M parameters: 26 layers of width 1024 (the defaults)."""
        return cls()

    @classmethod
    def jrt_1b(cls) -> Self:
        """The layout of 1.3B parameters: 36 layers of width 1792."""
        return cls(
            hidden_size=1792,
            num_hidden_layers=36,
            intermediate_size=3584,
            linear_layers=(1, 6, 11, 16, 21, 27, 33),
            window_layers=(2, 7, 12, 17, 22, 28, 34),
        )
