"""JRT (just read twice): a recurrent model that reads its prefix non-causally, and prompts that say it twice."""

from unending.io.rereading import jrt_prompt, read_twice
from unending.systems.language.jrt.configuration import JRTConfig
from unending.systems.language.jrt.layers import BaseConv
from unending.systems.language.jrt.memory import JRTCache, JRTMemory
from unending.systems.language.jrt.model import JRTForCausalLM, JRTModel
from unending.systems.language.jrt.objective import masked_prefix, prefix_lm_mlm_loss
from unending.systems.language.jrt.operator import JRT
from unending.systems.language.jrt.prefix_attention import PrefixLinearAttention
from unending.systems.language.jrt.sliding_attention import SlidingAttention

__all__ = [
    "JRT",
    "BaseConv",
    "JRTCache",
    "JRTConfig",
    "JRTForCausalLM",
    "JRTMemory",
    "JRTModel",
    "PrefixLinearAttention",
    "SlidingAttention",
    "jrt_prompt",
    "masked_prefix",
    "prefix_lm_mlm_loss",
    "read_twice",
]
