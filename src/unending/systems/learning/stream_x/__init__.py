"""stream-x: deep reinforcement learning on a stream, each transition once (Elsayed, Vasan, Mahmood 2024).

The operator and the networks need torch and numba; agents and wrappers are imported when they are first asked for,
because they need gymnasium as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unending.core.errors import MissingExtraError
from unending.systems.learning.stream_x.networks import MLP, AtariNetwork, MinAtarNetwork, sparse_init
from unending.systems.learning.stream_x.operator import StreamX
from unending.systems.learning.stream_x.session import StreamXState

if TYPE_CHECKING:
    from unending.systems.learning.stream_x.actor_critic import StreamAC
    from unending.systems.learning.stream_x.agents import StreamQ, StreamSARSA
    from unending.systems.learning.stream_x.td import StreamTD
    from unending.systems.learning.stream_x.wrappers import (
        AddTimeInfo,
        NormalizeObservation,
        ScaleReward,
        load_statistics,
        statistics,
        wrap,
        wrap_pictures,
    )

__all__ = [
    "MLP",
    "AddTimeInfo",
    "AtariNetwork",
    "MinAtarNetwork",
    "NormalizeObservation",
    "ScaleReward",
    "StreamAC",
    "StreamQ",
    "StreamSARSA",
    "StreamTD",
    "StreamX",
    "StreamXState",
    "load_statistics",
    "sparse_init",
    "statistics",
    "wrap",
    "wrap_pictures",
]

_WITH_GYMNASIUM = {
    "actor_critic": ("StreamAC",),
    "agents": ("StreamQ", "StreamSARSA"),
    "td": ("StreamTD",),
    "wrappers": (
        "AddTimeInfo",
        "NormalizeObservation",
        "ScaleReward",
        "load_statistics",
        "statistics",
        "wrap",
        "wrap_pictures",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_GYMNASIUM.items():
        if name in names:
            try:
                return getattr(import_module(f"{__name__}.{module}"), name)
            except ModuleNotFoundError as error:
                if error.name != "gymnasium":
                    raise
                raise MissingExtraError(f"{name} needs gymnasium: pip install 'unending[rl]'") from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
