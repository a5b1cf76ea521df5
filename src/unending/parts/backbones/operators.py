"""What every operator over a language model has in common: where its model comes from."""

from typing import Any, Self

from torch import nn

from unending.parts.backbones.language import LanguageBackbone, load, register

__all__ = ["OnLanguageModel"]


class OnLanguageModel:
    """Mixed into an operator that is a dataclass with the fields `model` and `dtype`."""

    model: str
    dtype: str

    @classmethod
    def from_model(cls, module: nn.Module, tokenizer: Any = None, **settings: Any) -> Self:
        """The operator over a model that is in memory already; `settings` are the other fields."""
        dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
        return cls(model=register(module, tokenizer), dtype=dtype, **settings)  # type: ignore[call-arg]

    @property
    def backbone(self) -> LanguageBackbone:
        """The model, loaded at the first use."""
        return load(self.model, self.dtype)

    def weights_digest(self) -> str:
        """Of the model's weights; a snapshot is refused by a model with others."""
        return self.backbone.digest
