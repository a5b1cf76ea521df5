"""The frame of a passage: what stands before the source, behind it, before the target, and what ends the target."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from unending.core.errors import InputError, ModelUnsupportedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.transcript import Transcript

__all__ = ["Template"]

_SLOT = "\N{WHITE SQUARE}"
_PLAIN_END, _PLAIN_HEADER = "\n", "="


@dataclass(frozen=True, eq=False)
class Template:
    """The tokens around the words of a passage, and how words become segments.

    Source segment 0 is the prompt, 1 to m are the words, the last one is the end of the turn. Target segment 0 is
    the header, 1 to n are the words, the last one is the stop token. A word is encoded with the space before it.

    Parameters
    ----------
    backbone
        model and tokenizer.
    prompt, end, header
        token ids before the first source word, behind the last one, and before the first target word.
    stop
        the token that ends a target.
    """

    backbone: LanguageBackbone
    prompt: tuple[int, ...]
    end: tuple[int, ...]
    header: tuple[int, ...]
    stop: int

    def __post_init__(self) -> None:
        for name in ("prompt", "end", "header"):
            if not getattr(self, name):
                raise InputError(f"the {name} of a passage has no token")

    @classmethod
    def of(cls, backbone: LanguageBackbone, instruction: str = "", *, chat: bool = True) -> Self:
        """From the tokenizer's chat template where it has one: instruction and source are the user's turn.

        Without one, the instruction (or the tokenizer's BOS, or its end token) begins the passage, a line break ends
        the source and "=" begins the target.

        Raises
        ------
        ModelUnsupportedError
            if there is no tokenizer, no token that ends a text, or the template does not keep the user's words.
        """
        tokenizer = backbone.tokenizer
        if tokenizer is None:
            raise ModelUnsupportedError(f"{backbone.name} has no tokenizer: words cannot be read")
        if not backbone.stops:
            raise ModelUnsupportedError(f"{backbone.name} names no token that ends a text")
        stop = tokenizer.eos_token_id
        stop = stop if stop in backbone.stops else min(backbone.stops)
        if chat and getattr(tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": instruction + _SLOT}]
            closed, opened = (
                str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=generation))
                for generation in (False, True)
            )
            if closed.count(_SLOT) != 1 or not opened.startswith(closed) or opened == closed:
                raise ModelUnsupportedError(
                    f"the chat template of {backbone.name} does not put the user's words before the assistant's"
                    " header: pass chat=False"
                )
            before, behind = closed.split(_SLOT)
            texts = before, behind, opened[len(closed) :]
            prompt, end, header = (tuple(_ids(backbone, text)) for text in texts)
            return cls(backbone, prompt, end or tuple(_ids(backbone, _PLAIN_END)), header, stop)
        begin = (*backbone.opening, *_ids(backbone, instruction)) or (stop,)
        return cls(
            backbone, begin, tuple(_ids(backbone, _PLAIN_END)), tuple(_ids(backbone, _PLAIN_HEADER)), stop
        )

    def word(self, word: str) -> list[int]:
        """Token ids of a word with the space before it."""
        return self.backbone.encode_piece(" " + word, first=False)[0]

    def text(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Text of `ids` behind `before`: a tokenizer may drop the space where a text begins."""
        whole, known = self.backbone.decode([*before, *ids]), self.backbone.decode([*before])
        return whole[len(known) :]

    def transcript(self, source: Sequence[str], target: Sequence[str]) -> Transcript:
        """A whole passage as segments, for training and as reference."""
        return Transcript(
            source=tuple(map(np.array, (self.prompt, *map(self.word, source), self.end))),
            target=tuple(map(np.array, (self.header, *map(self.word, target), (self.stop,)))),
        )


def _ids(backbone: LanguageBackbone, text: str) -> list[int]:
    return list(backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
