import pytest

from unending.parts.training import FIELDS, model_card, write_card

FACTS = {
    "title": "tiny",
    "summary": "A model.",
    "data": {"text": "stdlib"},
    "recipe": {"peak": 0.003, "betas": (0.9, 0.95)},
    "seed": 1,
    "steps": 10,
    "cpu_minutes": 2.5,
    "quality": {"perplexity": 4.301234},
    "licence": "apache-2.0",
    "command": "python scripts/train.py",
}


def test_a_card_says_everything():
    text = model_card(FACTS)
    assert FACTS.keys() == set(FIELDS)
    for line in ["license: apache-2.0", "| seed | 1 |", "| perplexity | 4.301 |", "| betas | 0.9, 0.95 |"]:
        assert line in text


def test_a_card_with_gaps_or_inventions_is_refused():
    with pytest.raises(ValueError, match="seed"):
        model_card({name: value for name, value in FACTS.items() if name != "seed"})
    with pytest.raises(ValueError, match="colour"):
        model_card({**FACTS, "colour": "blue"})


def test_a_card_is_the_readme(tmp_path):
    path = write_card(tmp_path, FACTS)
    assert path.name == "README.md"
    assert path.read_text() == model_card(FACTS)
