"""What `import unending` pulls in, and what it leaves alone."""

import json
import subprocess
import sys

import pytest

CORE = {"numpy", "optree", "safetensors", "typing_extensions"}


def pulled_in_by(statement: str) -> set[str]:
    """Top-level packages outside the standard library that a fresh interpreter holds after the statement."""
    program = f"""
import json, sys
before = set(sys.modules)
{statement}
new = [name for name in sys.modules if name not in before and getattr(sys.modules[name], "__file__", None)]
print(json.dumps(sorted({{name.partition(".")[0] for name in new}} - sys.stdlib_module_names)))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout)) - {"unending"}


@pytest.mark.parametrize(
    "statement", ["import unending", "import unending.core", "import unending.catalogue"]
)
def test_import_pulls_in_only_what_the_core_needs(statement: str) -> None:
    extra = pulled_in_by(statement) - CORE
    assert not extra, f"`{statement}` pulls in {sorted(extra)}"


def test_command_line_starts_without_a_framework() -> None:
    frameworks = {"torch", "transformers", "hypothesis", "matplotlib", "gguf", "accelerate"}
    extra = pulled_in_by("import unending.cli") & frameworks
    assert not extra, f"`import unending.cli` pulls in {sorted(extra)}"
