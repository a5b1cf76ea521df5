import subprocess
import sys

import pytest
from toys import Average, Loud

from unending.core import Bound, Exactness, Growth, Paper, errors


@pytest.mark.parametrize(
    ("exactness", "text"),
    [
        (Exactness.bitwise(), "bitwise"),
        (Exactness.allclose(1e-5), "allclose(1e-05)"),
        (Exactness.statistical("regret", (0.9, 1.1)), "statistical(regret in 0.9..1.1)"),
        (Exactness.none("sampling"), "none(sampling)"),
    ],
)
def test_exactness_in_words(exactness: Exactness, text: str) -> None:
    assert str(exactness) == text


def test_bound_in_words() -> None:
    assert str(Bound(1024)) == "1,024 bytes"
    grown = Bound(10, {"host": Growth(4, 4000, "oldest blocks go")})
    assert str(grown) == "10 bytes + 4,000 on host"


def test_paper_in_words() -> None:
    assert (
        str(Paper("A title", "A. Author", 2024, "2309.17453")) == "A title. A. Author, 2024, arXiv 2309.17453"
    )
    assert str(Paper("A title", "A. Author", 1999)) == "A title. A. Author, 1999"


def test_hop_is_a_number_or_a_field() -> None:
    assert Average(every=7).hop == 7
    assert Loud().hop == 1


def test_errors_form_one_tree() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.UnendingError)


def test_core_pulls_in_no_framework() -> None:
    program = (
        "import sys, unending.core\n"
        "print({'torch', 'transformers', 'rich', 'hypothesis', 'tyro'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
