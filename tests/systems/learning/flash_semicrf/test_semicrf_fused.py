"""The Triton kernels in Triton's interpreter, which is chosen before Triton is imported; and compiled for a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

INTERPRETED = """
import torch
from tests.systems.learning.flash_semicrf.semicrf_cases import case
from unending.systems.learning.flash_semicrf.function import log_partition
weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
for lengths, durations, labels, interval, projections, start, static in (
    ([7, 1, 4], 3, 3, 2, True, "pi", True),
    ([9, 8, 4], 2, 2, 4, False, "virtual", True),
    ([6, 3, 2], 1, 5, 3, True, "pi", True),  # five labels are two tiles
    ([5, 4, 1], 8, 2, None, False, "virtual", True),
    ([6, 2, 5], 3, 17, 2, True, "pi", True),
    ([12, 1, 10], 9, 33, 4, True, "pi", True),  # nine durations are two blocks beside 33 labels, which are three tiles
    ([12, 1, 10], 9, 33, 4, False, "pi", False),
    ([7, 1, 4], 3, 3, 2, True, "virtual", False),
    ([9, 8, 4], 2, 2, 4, False, "pi", False),
    ([6, 3, 2], 1, 5, 3, True, "pi", False),
    ([5, 4, 1], 8, 2, None, False, "virtual", False),
    ([6, 2, 5], 3, 9, 2, True, "pi", False),
):
    given = {"start": start, "projections": projections, "static": static}
    leaves, potentials = case(lengths, durations, labels, **given)
    with torch.no_grad():
        leaves[2][8:] += 50.0  # so that the largest of a window lies in its second block
    found = []
    for backend in ("triton", "compiled"):
        total = log_partition(potentials(), interval, backend)
        found.append((total, *torch.autograd.grad((total * weights).sum(), leaves)))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)
print("equal")
"""

AHEAD = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from unending.systems.learning.flash_semicrf import fused, fused_durations
whole = {"positions", "durations", "labels", "interval", "blocks", "has_starts", "has_ends"}
for kernel in (fused._forward, fused._backward, fused_durations._forward, fused_durations._backward):
    kinds = {name: "i32" if name in whole else "*i64" if name == "lengths" else "*fp64" for name in kernel.arg_names}
    kinds |= dict.fromkeys(("C", "BLOCK", "TILE"), "constexpr")
    for constants in ({"C": 8, "BLOCK": 32, "TILE": 4}, {"C": 128, "BLOCK": 4, "TILE": 32}):
        made = triton.compile(ASTSource(kernel, kinds, constexprs=constants), target=GPUTarget("cuda", 90, 32))
        assert made.asm["ptx"]
print("compiled")
"""


def said(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_forward_and_backward_equal_the_cpu(needs):
    needs("triton")
    assert said(INTERPRETED, TRITON_INTERPRET="1") == ["equal"]


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(needs, tmp_path):
    needs("triton")
    assert said(AHEAD, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)) == ["compiled"]
