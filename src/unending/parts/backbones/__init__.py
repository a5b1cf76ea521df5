"""The only place that touches model classes of transformers: loading, tokenising, positions."""

from unending.parts.backbones.language import LanguageBackbone, load, register
from unending.parts.backbones.rotary import Rotary, position_limit, rotaries, rotate

__all__ = ["LanguageBackbone", "Rotary", "load", "position_limit", "register", "rotaries", "rotate"]
