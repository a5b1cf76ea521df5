"""Pass keys hidden in a long text, or in symbols: the data on which retrieval heads are told from the others."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from unending.core.errors import InputError
from unending.core.random import philox
from unending.parts.training.streams import RecallStream

__all__ = ["ALPHABET", "IGNORED", "Labelled", "MultiPasskeyDataset", "RecallPasskeys"]

IGNORED = -100
"""Label of a position that no loss looks at."""
_NATO = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo"
    " sierra tango uniform victor whiskey xray yankee zulu"
)
_COUNT = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
    " fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
ALPHABET, _ORDINALS = tuple(_NATO.split()), tuple(_COUNT.split())
# "Remeber" is what the authors trained on.
_NEEDLE = "Remeber this sequence of words, it's the {ordinal} passkey to the vault: "
_QUESTION = "Based on the content of the book, what is the {ordinal} passkey to the vault?\nPasskey: "
_OPENING, _CLOSING = "<|im_start|> This is a very long story book: <book> ", " </book>.\n\n"
_SEPARATOR = "\n\n"
_MULTIPLE = 16
_LENGTHS, _KEYS = 1, 2  # uses of the generator


@dataclass(frozen=True, eq=False)
class Labelled:
    """A sequence and where its loss is taken."""

    ids: np.ndarray
    """int64 `[n]`."""
    labels: np.ndarray
    """int64 `[n]`: the id where the position counts, else `IGNORED`."""


class MultiPasskeyDataset:
    """A long book with several pass keys in it, and all of them asked for at its end.

    The synthetic data of DuoAttention (Xiao et al. 2024, arXiv 2410.10819). Item `i` of the endless sequence is a
    function of the seed and `i`; every `lengths` items, each context length comes once, in random order.

    Parameters
    ----------
    tokenizer
        of transformers.
    haystack
        the book, or its parts in order; what is longer than needed is not read.
    max_length, min_length
        tokens of the longest and the shortest context; `lengths` values between them, evenly spaced.
    num_passkeys, passkey_length
        how many keys (20 at most), and of how many words each.
    lengths
        number of context lengths.
    depths
        number of places, evenly spaced as shares of the book.
    min_depth, max_depth
        share of the book at which the first and the last place lies.
    reserve
        tokens by which the longest sequence stays under `max_length`.
    seed
        of the draws.

    Raises
    ------
    InputError
        if keys and questions leave no room for a book, or the numbers make no sense.
    """

    def __init__(
        self,
        tokenizer: Any,
        haystack: str | Iterable[str],
        *,
        max_length: int = 32_000,
        min_length: int = 1_000,
        num_passkeys: int = 10,
        passkey_length: int = 32,
        lengths: int = 50,
        depths: int = 1_000,
        min_depth: float = 0.05,
        max_depth: float = 0.95,
        reserve: int = 300,
        seed: int = 0,
    ) -> None:
        if not 1 <= num_passkeys <= min(len(_ORDINALS), depths) or passkey_length < 1:
            raise InputError(
                f"1 to {len(_ORDINALS)} pass keys of 1 or more words, and as many depths at least"
            )
        if not (1 <= min_length <= max_length and lengths >= 1 and 0 <= min_depth <= max_depth <= 1):
            raise InputError(
                "accepted are 1 <= min_length <= max_length and 0 <= min_depth <= max_depth <= 1"
            )
        self.tokenizer, self.seed = tokenizer, seed
        self.num_passkeys, self.passkey_length = num_passkeys, passkey_length
        self.context_lengths = np.linspace(min_length, max_length, lengths).astype(np.int64)
        self.depths = np.linspace(min_depth, max_depth, depths)
        ordinals = _ORDINALS[:num_passkeys]
        self._needles = [self._encode(_NEEDLE.format(ordinal=each)) for each in ordinals]
        self._questions = [self._encode(_QUESTION.format(ordinal=each)) for each in ordinals]
        self._separator, self._closing = self._encode(_SEPARATOR), self._encode(_CLOSING)
        self._opening = list(tokenizer(_OPENING)["input_ids"])
        key = len(self._encode(" ".join(self._words(philox(seed, 0, _KEYS)))))
        around = len(self._opening) + len(self._closing)
        each = 2 * len(self._separator) + len(self._needles[0]) + len(self._questions[0]) + 2 * key
        room = max_length - reserve - around - each * num_passkeys
        if room < num_passkeys:
            raise InputError(
                f"{num_passkeys} pass keys of {passkey_length} words leave no room for a book in {max_length} tokens"
                f" of which {reserve} are kept free"
            )
        self.haystack = self._read(haystack, max_length)[:room]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _read(self, haystack: str | Iterable[str], length: int) -> list[int]:
        ids: list[int] = []
        for part in [haystack] if isinstance(haystack, str) else haystack:
            ids += self._encode(part[: 32 * length])
            if len(ids) >= length:
                break
        return ids[:length]

    def _words(self, draw: np.random.Generator) -> list[str]:
        return [ALPHABET[index] for index in draw.integers(len(ALPHABET), size=self.passkey_length)]

    def __len__(self) -> int:
        """Items after which every context length has come once; the sequence goes on."""
        return len(self.context_lengths)

    def __getitem__(self, index: int) -> Labelled:
        """Item `index`, 0 or more."""
        return self.ask(index)[0]

    def ask(self, index: int) -> tuple[Labelled, list[str], int]:
        """Item `index`, the pass keys in it in the order asked for, and how many tokens the book has with them."""
        epoch, place = divmod(index, len(self))
        length = self.context_lengths[philox(self.seed, epoch, _LENGTHS).permutation(len(self))[place]]
        draw = philox(self.seed, index + 1, _KEYS)
        depths = np.sort(draw.permutation(self.depths)[: self.num_passkeys])
        keys = [" ".join(self._words(draw)) for _ in range(self.num_passkeys)]
        encoded = [self._encode(key) for key in keys]
        context = [*self._opening, *self._hidden(self.haystack[:length], depths, encoded)]
        questions: list[int] = []
        for question, key in zip(self._questions, encoded, strict=True):
            questions += [*question, *key, *self._separator]
        total = len(context) + len(self._closing) + len(questions)
        # As upstream: 1 to 16 tokens, so 16 where none were needed.
        context += [*self.haystack[-(_MULTIPLE - total % _MULTIPLE) :], *self._closing]
        ids = np.array([*context, *questions], dtype=np.int64)
        labels = np.where(np.arange(len(ids)) < len(context), IGNORED, ids)
        return Labelled(ids, labels), keys, len(context)

    def _hidden(self, book: list[int], depths: np.ndarray, keys: list[list[int]]) -> list[int]:
        """The book with each key behind its needle, at its depth."""
        context: list[int] = []
        last = 0
        for depth, needle, key in zip(depths, self._needles, keys, strict=True):
            at = int(len(book) * depth)
            context += [*book[last:at], *self._separator, *needle, *key, *self._separator]
            last = at
        return context + book[last:]


@dataclass(frozen=True)
class RecallPasskeys:
    """The same question in symbols: rows of `RecallStream`, labelled at its queries (mark, key and answer).

    Parameters
    ----------
    length
        tokens of a row.
    every
        records between two queries, by turns of the rows.
    keys, values
        sizes of the alphabets.
    seed
        of the draws.
    """

    length: int = 512
    every: tuple[int, ...] = (2, 3, 5, 10)
    keys: int = 512
    values: int = 64
    seed: int = 0

    def __getitem__(self, index: int) -> Labelled:
        """Row `index`, 0 or more."""
        every = self.every[index % len(self.every)]
        stream = RecallStream((self.seed << 32) + index, every, 0, self.keys, self.values)
        ids = stream.tokens(0, self.length)
        answers = stream.answers(0, self.length)
        asked = np.concatenate([answers - 2, answers - 1, answers])
        labels = np.full_like(ids, IGNORED)
        labels[asked] = ids[asked]
        return Labelled(ids, labels)
