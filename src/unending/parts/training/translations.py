"""A synthetic language pair that needs no download: words are substituted and some neighbours change places."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unending.core.random import philox

__all__ = ["TranslationTask"]

_SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ ':' if message['role'] == 'assistant' else '' }}"
    "{{ message['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>:{% endif %}"
)
_SOURCE = [consonant + vowel for consonant in "kmpt" for vowel in "aiu"]
_TARGET = [consonant + vowel for consonant in "bdglnrs" for vowel in "eo"]


@dataclass(frozen=True)
class TranslationTask:
    """Sentences of invented words, and their translations.

    Every source word has one target word. The first half of the words are modifiers, the others heads: a modifier
    directly before a head comes after it in the translation, so that a translator that has read a modifier must
    read one word more. No word occurs twice in a sentence. Two thirds of the words of either language are one
    token, the others that token and a suffix: only the token that follows tells where such a word ends.

    Attributes
    ----------
    words : int
        size of the dictionary, a multiple of 6.
    shortest, longest : int
        words of a sentence.
    seed : int
        names the dictionary.
    """

    words: int = 96
    shortest: int = 8
    longest: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if self.words % 6 or not 1 <= self.shortest <= self.longest <= self.words:
            raise ValueError(
                "TranslationTask takes a multiple of 6 words and 1 <= shortest <= longest <= words"
            )

    @cached_property
    def lexicon(self) -> tuple[list[str], list[str]]:
        """The source words and, at the same index, their translations."""
        source, target = (self._words(part, syllables) for part, syllables in enumerate((_SOURCE, _TARGET)))
        return source, [target[index] for index in philox(self.seed, 2).permutation(self.words)]

    def _stems(self, part: int, syllables: list[str]) -> list[str]:
        pairs = [first + second for first in syllables for second in syllables]
        return [
            pairs[index] for index in philox(self.seed, part).permutation(len(pairs))[: self.words * 2 // 3]
        ]

    def _words(self, part: int, syllables: list[str]) -> list[str]:
        stems = self._stems(part, syllables)
        longer = [stem + syllables[index % 2] for index, stem in enumerate(stems[: self.words // 3])]
        both = stems + longer
        return [both[index] for index in philox(self.seed, part, 1).permutation(self.words)]

    def sentences(
        self, seed: int, step: int, count: int, longest: int = 0
    ) -> list[tuple[list[str], list[str]]]:
        """`count` pairs (source words, target words), drawn by (seed, step); `longest` makes them shorter."""
        draw, most = philox(seed, step), min(longest or self.longest, self.longest)
        lengths = draw.integers(min(self.shortest, most), most + 1, size=count)
        source, target = self.lexicon
        pairs = []
        for length in lengths:
            chosen = draw.permutation(self.words)[:length].tolist()
            pairs.append(([source[i] for i in chosen], [target[i] for i in self._reordered(chosen)]))
        return pairs

    def translate(self, words: list[str]) -> list[str]:
        """The translation of a sentence of the language."""
        source, target = self.lexicon
        return [target[i] for i in self._reordered([source.index(word) for word in words])]

    def _reordered(self, chosen: list[int]) -> list[int]:
        order, at, half = list(chosen), 0, self.words // 2
        while at + 1 < len(order):
            if order[at] < half <= order[at + 1]:
                order[at], order[at + 1] = order[at + 1], order[at]
                at += 1
            at += 1
        return order

    def tokenizer(self) -> Any:
        """A byte-level tokenizer of the ordinary transformers class, with a chat template, that knows the words.

        A word is encoded with the space before it; text outside the language falls back to bytes.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = [(syllable[0], syllable[1]) for syllable in _SOURCE + _TARGET]
        merges += [("Ġ", syllable) for syllable in _SOURCE + _TARGET]
        for part, syllables in enumerate((_SOURCE, _TARGET)):
            merges += [("Ġ" + stem[:2], stem[2:]) for stem in self._stems(part, syllables)]
        pieces = [*alphabet, *(first + second for first, second in merges)]
        inner = Tokenizer(
            models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges)
        )
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        inner.add_special_tokens([AddedToken(each, special=True) for each in _SPECIAL])
        return PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], chat_template=_TEMPLATE
        )
