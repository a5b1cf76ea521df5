"""The prompt around a context: an instruction before it, the question after it."""

from dataclasses import dataclass
from typing import Any

from unending.core.errors import InputError
from unending.parts.backbones import LanguageBackbone

__all__ = ["Frame", "frame_of"]

_PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the context while the template is rendered."""


@dataclass(frozen=True)
class Frame:
    """What stands around a context. The question comes last, so that nothing before it changes with it."""

    backbone: LanguageBackbone
    opening: tuple[int, ...]
    """Token ids before the context; empty where only the text itself decides what stands first."""
    before: str
    """Text between context and question."""
    after: str
    """Text between question and answer."""

    def question(self, text: str) -> list[int]:
        """Token ids of what follows the context.

        Raises
        ------
        InputError
            if the model has no tokenizer.
        """
        if self.backbone.tokenizer is None:
            raise InputError(
                f"model {self.backbone.name} has no tokenizer: it reads Tokens, and no questions"
            )
        encoded = self.backbone.tokenizer(self.before + text + self.after, add_special_tokens=False)
        return list(encoded["input_ids"])


def frame_of(backbone: LanguageBackbone, instruction: str, *, chat: bool) -> Frame:
    """The paper's template, instruction, context and question, as one turn of the model's chat template.

    Without a chat template, or with `chat` off, context and question stand as they are.
    """
    tokenizer: Any = backbone.tokenizer
    if not chat or not getattr(tokenizer, "chat_template", None):
        return Frame(backbone, (), "", "")
    opening, after = _rendered(tokenizer, instruction).split(_PLACE)
    ids = tokenizer(opening, add_special_tokens=False)["input_ids"]
    return Frame(backbone, tuple(ids), "\n\nQuestion: ", after)


def _rendered(tokenizer: Any, instruction: str) -> str:
    from jinja2 import TemplateError

    def render(*turns: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    if not instruction:
        return render(("user", _PLACE))
    try:
        return render(("system", instruction), ("user", _PLACE))
    except TemplateError:  # some templates know no system turn
        return render(("user", f"{instruction}\n\n{_PLACE}"))
