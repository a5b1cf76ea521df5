"""Sinks by training instead of by accident: a learned sink token, and softmax-off-by-one attention."""

import copy

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.modeling_outputs import CausalLMOutput

from unending.core.errors import InputError

__all__ = ["SOFTMAX1", "SinkToken", "softmax1", "softmax1_attention", "softmax1_reference"]

SOFTMAX1 = "softmax1"
"""Name of the attention: ``model.set_attn_implementation(SOFTMAX1)``. Importing this module registers it.

transformers does not write the name into a checkpoint, so a model trained with it must be opened with it:
``from_pretrained(folder, attn_implementation=SOFTMAX1)``.
"""


class SinkToken(nn.Module):
    """Prepend learned embeddings to every training sample of a causal language model.

    The model learns to park surplus attention on them, so that a stream needs to keep these and no accidental
    sinks. The objective is unchanged: no loss falls on a sink, and none of a sample's tokens is predicted that
    was not predicted before. Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023,
    arXiv 2309.17453, section 3.3.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        any causal language model that accepts ``inputs_embeds``; trained in place.
    n_sinks : int
        how many.
    generator : torch.Generator, optional
        draws the initial sinks, at the spread of the model's own embeddings.
    """

    def __init__(
        self, model: PreTrainedModel, n_sinks: int = 1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if n_sinks < 1:
            raise ValueError(f"n_sinks is {n_sinks}; it takes at least one")
        self.model = model
        table = model.get_input_embeddings()
        with torch.no_grad():
            spread = table(torch.arange(table.num_embeddings)).std()
            noise = torch.randn(n_sinks, table.embedding_dim, generator=generator)
        self.sinks = nn.Parameter((noise * spread).to(table.weight.dtype))
        """The sinks as the first layer sees them, [n_sinks, hidden]."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Run the model behind its sinks.

        Parameters
        ----------
        input_ids : torch.Tensor
            int64 [batch, length].
        attention_mask : torch.Tensor, optional
            1 for real tokens, [batch, length]; padding stands on the right, since a sink comes first.
        labels : torch.Tensor, optional
            as the model's own: the ids again, -100 where there is no loss, int64 [batch, length].

        Returns
        -------
        transformers.modeling_outputs.CausalLMOutput
            logits [batch, length, vocabulary], aligned with `input_ids`; the loss where labels are given.
        """
        n, batch = len(self.sinks), len(input_ids)
        if attention_mask is not None:
            if not bool(attention_mask[:, 0].all()):
                raise InputError("left padding: the sink must stand directly before a row's first token")
            attention_mask = torch.cat([attention_mask.new_ones(batch, n), attention_mask], 1)
        tokens = self.model.get_input_embeddings()(input_ids)
        sinks = self.sinks.to(tokens.dtype).expand(batch, n, -1)
        output = self.model(
            inputs_embeds=torch.cat([sinks, tokens], 1), attention_mask=attention_mask, use_cache=False
        )
        logits = output.logits[:, n:].contiguous()
        loss = None
        if labels is not None:
            loss = self.model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutput(loss=loss, logits=logits)

    def fold(self, silent_id: int) -> PreTrainedModel:
        """An ordinary model in whose vocabulary the sinks are the last ids, the first of them its BOS.

        Given the sinks as its first tokens it computes the same logits for all the old ids, to the bit. An output
        row is needed for each new id too, and no row is certain never to win; so the sinks repeat the row of an id
        that the model never expects, and share its small probability. Tied embeddings are untied.

        Parameters
        ----------
        silent_id : int
            the id whose output row is repeated, say padding, an unused id, or the byte 0 in text.
        """
        model = copy.deepcopy(self.model)
        n, table = len(self.sinks), model.get_input_embeddings()
        old, head = table.num_embeddings, model.get_output_embeddings()
        if not 0 <= silent_id < old:
            raise ValueError(f"silent_id is {silent_id}; the vocabulary has {old} ids")
        if model.config.tie_word_embeddings:
            head = copy.deepcopy(head)
            model.config.tie_word_embeddings = False
            model.set_output_embeddings(head)
        model.resize_token_embeddings(old + n, mean_resizing=False)
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        with torch.no_grad():
            # Gemma scales its embeddings after the look-up.
            scale = torch.as_tensor(getattr(table, "embed_scale", 1.0), dtype=table.weight.dtype)
            table.weight[old:] = self.sinks / scale
            head.weight[old:] = head.weight[silent_id]
            if head.bias is not None:
                head.bias[old:] = head.bias[silent_id]
        model.config.bos_token_id = old
        if model.generation_config is not None:
            model.generation_config.bos_token_id = old
        return model


def softmax1(scores: Tensor) -> Tensor:
    """Softmax-off-by-one over the last dimension, ``exp(x_i) / (1 + sum_j exp(x_j))``, float32.

    The 1 is an extra score of zero that takes what no key deserves; a row of minus infinities gives zeros. Any
    finite score is safe. The "zero sink" of Xiao et al., 2023, arXiv 2309.17453; proposed by E. Miller,
    "Attention Is Off By One", 2023.

    Parameters
    ----------
    scores : torch.Tensor
        [..., keys].
    """
    scores = nn.functional.pad(scores.float(), (1, 0))
    return torch.softmax(scores, -1)[..., 1:]


def softmax1_reference(scores: Tensor) -> Tensor:
    """`softmax1` as it is written on paper; overflows for scores above about 88."""
    exponentials = scores.float().exp()
    return exponentials / (1 + exponentials.sum(-1, keepdim=True))


def softmax1_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention with `softmax1`, for transformers' `AttentionInterface`: one more key and value of zeros.

    Parameters
    ----------
    module : torch.nn.Module
        the attention layer.
    query : torch.Tensor
        [batch, heads, queries, dim].
    key, value : torch.Tensor
        [batch, key heads, keys, dim]; key heads divide heads.
    attention_mask : torch.Tensor or None
        added to the scores, broadcastable to [batch, heads, queries, keys].
    scaling : float, optional
        of the scores; 1 / sqrt(dim) unless given.
    dropout : float
        on the weights, in training.
    **kwargs
        what the interface passes to every attention; not used.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        outputs [batch, queries, heads, dim] and weights [batch, heads, queries, keys], whose rows sum to less
        than one.
    """
    batch, heads, queries, dim = query.shape
    grouped = query.view(batch, key.shape[1], -1, queries, dim)
    scores = grouped @ key[:, :, None].transpose(-1, -2) * (dim**-0.5 if scaling is None else scaling)
    scores = scores.reshape(batch, heads, queries, -1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = softmax1(scores).to(query.dtype)
    weights = nn.functional.dropout(weights, dropout, module.training)
    shared = weights.view(batch, key.shape[1], -1, queries, key.shape[2])
    output = (shared @ value[:, :, None]).reshape(batch, heads, queries, -1)
    return output.transpose(1, 2).contiguous(), weights


AttentionInterface.register(SOFTMAX1, softmax1_attention)
AttentionMaskInterface.register(SOFTMAX1, eager_mask)
