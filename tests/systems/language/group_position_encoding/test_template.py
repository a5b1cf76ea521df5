"""The frame of a passage from a chat template, or without one."""

import numpy as np
import pytest
from tests.systems.language.group_position_encoding.forcing import model

from unending.core.errors import InputError, ModelUnsupportedError
from unending.parts.backbones import LanguageBackbone
from unending.parts.backbones.tiny import byte_tokenizer
from unending.parts.training.translations import TranslationTask
from unending.systems.language.group_position_encoding import Template

CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def backbone(chat_template=None, tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer()
    tokenizer.chat_template = chat_template
    return LanguageBackbone("tiny", model(), tokenizer, "")


def test_the_chat_template_gives_prompt_end_and_header():
    held = backbone(CHATML)
    made = Template.of(held, "Translate:")
    texts = [held.decode(list(ids)) for ids in (made.prompt, made.end, made.header)]
    assert texts == ["<s>user\nTranslate:", "<e>\n", "<s>assistant\n"]
    whole = held.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Translate: so it is"}], add_generation_prompt=True, return_dict=True
    )
    one = made.transcript(["so", "it", "is"], ["voilà"])
    # Segment by segment or as a whole: the same tokens.
    assert [*one.source_ids, *one.target[0]] == list(whole["input_ids"])


def test_without_a_chat_template():
    held = backbone()
    made = Template.of(held, "Fr:")
    assert held.decode([*made.prompt, *made.end, *made.header]) == "Fr:\n="
    assert Template.of(held).prompt == (256,)  # nothing to begin with but the token that ends texts
    assert Template.of(backbone(CHATML), "Fr:", chat=False).prompt == made.prompt


def test_a_template_that_says_nothing_after_the_user_has_no_header():
    with pytest.raises(ModelUnsupportedError, match="chat=False"):
        Template.of(backbone("{% for m in messages %}{{ m['content'] }}{% endfor %}"))


def test_words_keep_the_space_before_them():
    task = TranslationTask()
    made = Template.of(LanguageBackbone("t", model(), task.tokenizer(), ""))
    source, target = task.sentences(0, 0, 1)[0]
    one = made.transcript(source, target)
    whole = made.backbone.tokenizer(" " + " ".join(source)).input_ids
    assert np.concatenate(one.source[1:-1]).tolist() == whole
    assert made.text(made.header, made.word(target[0])) == " " + target[0]
    assert one.target[-1].tolist() == [made.stop]


def test_parts_without_tokens_are_refused():
    with pytest.raises(InputError, match="the end of a passage has no token"):
        Template(backbone(), (1,), (), (2,), 3)
