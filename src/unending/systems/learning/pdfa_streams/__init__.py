"""PDFA from streams: state merging on a prefix tree of bounded size, with sketches of the futures of its states."""

from unending.systems.learning.pdfa_streams.estimator import StreamingPDFALearner, learn_batch
from unending.systems.learning.pdfa_streams.formats import (
    read_abbadingo,
    read_pautomac,
    read_pautomac_model,
    read_solution,
    write_abbadingo,
    write_pautomac,
    write_pautomac_model,
    write_solution,
)
from unending.systems.learning.pdfa_streams.model import PDFA, perplexity
from unending.systems.learning.pdfa_streams.operator import PDFAStreams
from unending.systems.learning.pdfa_streams.pfa import PFA, random_pdfa, random_pfa

__all__ = [
    "PDFA",
    "PFA",
    "PDFAStreams",
    "StreamingPDFALearner",
    "learn_batch",
    "perplexity",
    "random_pdfa",
    "random_pfa",
    "read_abbadingo",
    "read_pautomac",
    "read_pautomac_model",
    "read_solution",
    "write_abbadingo",
    "write_pautomac",
    "write_pautomac_model",
    "write_solution",
]
