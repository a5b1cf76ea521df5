"""Pretrained language models of transformers: loading, conversion, tokenising. Loaded once a process."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from unending.core.errors import InputError, ModelUnsupportedError
from unending.io.models import Located, cache_folder, locate
from unending.parts.backbones.rotary import Rotary, position_limit, rotaries

__all__ = ["LanguageBackbone", "kv_shapes", "load", "register"]

DTYPES = ("float32", "bfloat16", "float16", "float64")
_PROBE = "To be, or not\n  to be: 42 things, naïve  café — that's\tall."


def kv_shapes(config: Any, batch: int = 1) -> tuple[tuple[int, int, int], ...]:
    """`(batch, kv_heads, head_dim)` of each layer's cache, of a configuration of transformers."""
    config = config.get_text_config()
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return ((batch, kv_heads, dim),) * config.num_hidden_layers


@dataclass(frozen=True, eq=False)
class LanguageBackbone:
    """A causal language model, its tokenizer (or none), and what streaming needs to know of them."""

    name: str
    module: Any
    tokenizer: Any
    digest: str

    @property
    def config(self) -> Any:
        """The text configuration."""
        return self.module.config.get_text_config()

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.config.vocab_size)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the KV memory."""
        return next(self.module.parameters()).dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.module.parameters()).device  # type: ignore[no-any-return]

    @cached_property
    def rotaries(self) -> list[Rotary | None]:
        """Rotary embedding of each layer; see `unending.parts.backbones.rotary`."""
        return rotaries(self.module)

    @cached_property
    def limit(self) -> int:
        """Keys that one query can see at most."""
        return position_limit(self.module)

    def kv_shapes(self, batch: int = 1) -> tuple[tuple[int, int, int], ...]:
        """`(batch, kv_heads, head_dim)` of each layer's cache."""
        return kv_shapes(self.module.config, batch)

    @cached_property
    def _before(self) -> str:
        """What a piece is encoded behind: nothing, or a letter whose tokens are dropped.

        Some tokenizers put a space mark in front of whatever text they get; behind a letter they do not.
        """
        whole = self._ids(_PROBE)
        first, *rest = _pieces(_PROBE)
        for before in ("", "x"):
            skip = len(self._ids(before)) if before else 0
            if sum((self._ids(before + piece)[skip:] for piece in rest), self._ids(first)) == whole:
                return before
        raise ModelUnsupportedError(
            f"the tokenizer of {self.name} does not split at white space: push tokens instead"
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_piece(self, piece: str, *, first: bool) -> tuple[list[int], list[int]]:
        """Token ids of one piece of text (see `unending.io.text`) and the character offset at which each ends."""
        before = "" if first else self._before
        encoded = self.tokenizer(before + piece, add_special_tokens=False, return_offsets_mapping=True)
        skip = len(self._ids(before)) if before else 0
        return list(encoded["input_ids"])[skip:], [
            end - len(before) for _, end in encoded["offset_mapping"][skip:]
        ]

    @cached_property
    def opening(self) -> list[int]:
        """Special tokens that stand before any text (often a BOS)."""
        return list(self.tokenizer("")["input_ids"])

    def encode_turn(self, question: str, *, chat: bool) -> list[int]:
        """Token ids of a question, as a turn of conversation where the tokenizer has a chat template."""
        if chat and getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": question}]
            encoded = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)
            return list(encoded["input_ids"])
        return self._ids(question)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids without special tokens; an unfinished character shows as U+FFFD."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def stops(self) -> frozenset[int]:
        """Ids that end an answer."""
        found: set[int] = set()
        for owner in (getattr(self.module, "generation_config", None), self.config, self.tokenizer):
            ids = getattr(owner, "eos_token_id", None)
            found |= set(ids) if isinstance(ids, list) else {ids} if ids is not None else set()
        return frozenset(found)


def _pieces(text: str) -> list[str]:
    from unending.io.text import feed, flush, held_text

    held, pieces = feed(held_text(4096), text)
    return [*pieces, flush(held)[1]]


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers: a command line of ours shows its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_loaded: dict[tuple[str, str], LanguageBackbone] = {}


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def _folder_digest(folder: Path) -> str:
    """Digest of the weights of a transformers folder, remembered beside our own conversions."""
    noted = folder / "unending.json"
    if noted.is_file():
        return str(json.loads(noted.read_text())["digest"])
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return hashlib.sha256("".join(map(_file_digest, files)).encode()).hexdigest()[:16]


def _converted(located: Located) -> Path:
    """A GGUF file as a transformers folder in float32, made once and kept in the cache folder."""
    source = located.folder / located.gguf
    digest = _file_digest(source)
    target = cache_folder() / "models" / f"{source.stem}-{digest}"
    if (target / "unending.json").is_file():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(located.folder, gguf_file=located.gguf)
    module = AutoModelForCausalLM.from_pretrained(located.folder, gguf_file=located.gguf, dtype=torch.float32)
    # The loader marks the model as quantised, which it is no more, and save_pretrained would refuse.
    if hasattr(module, "hf_quantizer"):
        del module.hf_quantizer
    module.config.__dict__.pop("quantization_config", None)
    making = Path(tempfile.mkdtemp(dir=target.parent, prefix=".making-"))
    try:
        module.save_pretrained(making)
        tokenizer.save_pretrained(making)
        (making / "unending.json").write_text(json.dumps({"source": source.name, "digest": digest}))
        if not target.exists():
            making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return target


def load(name: str, dtype: str = "float32") -> LanguageBackbone:
    """The backbone of a model name (see `unending.io.models.locate`), from disk at the first call.

    Raises
    ------
    ModelNotFoundError
        if there is no such model.
    ModelUnsupportedError
        if its files cannot be read as a causal language model.
    InputError
        if the dtype is none of `DTYPES`.
    """
    key = (name, dtype)
    if key in _loaded:
        return _loaded[key]
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; accepted are {', '.join(DTYPES)}")
    located = locate(name)
    try:
        module, tokenizer, folder = _read(located, getattr(torch, dtype))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        # What the loaders of transformers, safetensors and gguf raise on files that are damaged or of another kind.
        reason = " ".join(str(error).split())[:200]
        raise ModelUnsupportedError(f"{name} cannot be read as a causal language model: {reason}") from error
    _loaded[key] = LanguageBackbone(name, module, tokenizer, _folder_digest(folder))
    return _loaded[key]


def _read(located: Located, dtype: torch.dtype) -> tuple[Any, Any, Path]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = _converted(located) if located.gguf else located.folder
    with _quiet():
        attention = _attention(AutoConfig.from_pretrained(folder))
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        tokenizer = AutoTokenizer.from_pretrained(folder) if any(folder.glob("tokenizer*")) else None
    return module.eval(), tokenizer, folder


def _attention(config: Any) -> str | None:
    """The attention that a checkpoint was trained with, where its configuration names one beside the ordinary."""
    named = getattr(config, "attention_function", None)
    if named is None:
        return None
    from unending.parts.memory.trained_sinks import SOFTMAX1  # the import registers it

    if named != SOFTMAX1:
        raise ModelUnsupportedError(f"the attention function {named!r} is unknown; known is {SOFTMAX1!r}")
    return SOFTMAX1


def register(module: nn.Module, tokenizer: Any = None) -> str:
    """Give a module in memory a name under which `load` finds it in this process.

    The name holds a digest of the weights, so that a snapshot is refused by a model with others.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        host = tensor.detach().contiguous().cpu().reshape(-1)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(host.view(torch.uint8).numpy().tobytes())
    name = f"module-{digest.hexdigest()[:16]}"
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    _loaded[name, dtype] = LanguageBackbone(name, module.eval(), tokenizer, digest.hexdigest()[:16])
    return name
