"""The semi-Markov CRF as a layer: on top of any encoder, trained by its negative log-likelihood."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unending.core.errors import InputError
from unending.systems.learning.flash_semicrf.distribution import SemiCRFDistribution
from unending.systems.learning.flash_semicrf.durations import DurationScores
from unending.systems.learning.flash_semicrf.potentials import Potentials, prefix_sums, require_lengths
from unending.systems.learning.flash_semicrf.segments import Segment, gold_score, labels_to_segments

__all__ = ["SemiMarkovCRF"]

Paths = Sequence[Sequence[Segment | tuple[int, int, int]]]


class SemiMarkovCRF(nn.Module):
    """Flash-SemiCRF (Johnson et al. 2026): exact semi-Markov CRF in memory that holds no tensor of edges.

    Input is `h`: hidden states `[batch, T, hidden_dim]` of an encoder or, without `hidden_dim`, emission scores
    `[batch, T, num_classes]` themselves; `lengths` int64 `[batch]` (all T if not given). A length of 0 is refused
    with `InputError`.

    Parameters
    ----------
    num_classes, max_duration
        labels C and the longest segment K.
    hidden_dim
        width of the encoder; a linear layer then makes the emissions.
    init_scale
        standard deviation of transitions and learned durations at the start.
    duration_distribution
        see `DurationScores`.
    duration_transitions
        transitions `[K, C, C]` in place of `[C, C]`.
    use_boundary_projections
        scores of starts and ends of segments from `h`, a linear layer each; needs `hidden_dim`.
    use_sequence_boundaries
        learned scores of the first and of the last label.
    centering
        `"label"` (another model: it takes each label's mean off, which acts as a prior on durations), `"position"`
        or `"none"`; see `prefix_sums`.
    restore
        with `"label"`: put the means back into the duration scores, row by row; the sums stay small and the model
        is that of `"none"`.
    precision
        dtype inside the scan.
    checkpoint_interval, backend
        as in `semi_crf_log_partition`.
    generator
        of the initial parameters; torch's own if not given.

    Raises
    ------
    InputError
        if the settings do not fit each other.
    """

    def __init__(
        self,
        num_classes: int,
        max_duration: int,
        hidden_dim: int | None = None,
        *,
        init_scale: float = 0.1,
        duration_distribution: str | Callable[[int, int], Tensor] = "learned",
        duration_transitions: bool = False,
        use_boundary_projections: bool = False,
        use_sequence_boundaries: bool = True,
        centering: str = "label",
        restore: bool = False,
        precision: torch.dtype = torch.float64,
        checkpoint_interval: int | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or max_duration < 1:
            raise InputError(f"num_classes and max_duration are 1 or more, got {num_classes}, {max_duration}")
        if restore and centering != "label":
            raise InputError(
                'restore puts back what centering="label" takes off; it means nothing with others'
            )
        if use_boundary_projections and hidden_dim is None:
            raise InputError("boundary projections read the hidden states: give hidden_dim")
        self.num_classes, self.max_duration, self.hidden_dim = num_classes, max_duration, hidden_dim
        self.centering, self.restore, self.precision = centering, restore, precision
        self.checkpoint_interval, self.backend = checkpoint_interval, backend
        shape = (max_duration,) * duration_transitions + (num_classes, num_classes)
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        self.transition = nn.Parameter(init_scale * drawn)
        self.duration = DurationScores(
            num_classes, max_duration, duration_distribution, init_scale, generator
        )
        self.emission = nn.Linear(hidden_dim, num_classes) if hidden_dim is not None else nn.Identity()
        self.start_projection = self.end_projection = None
        if use_boundary_projections and hidden_dim is not None:
            self.start_projection = nn.Linear(hidden_dim, num_classes, bias=False)
            self.end_projection = nn.Linear(hidden_dim, num_classes, bias=False)
        zeros = torch.zeros(num_classes, dtype=torch.float64)
        self.initial = nn.Parameter(zeros.clone(), requires_grad=use_sequence_boundaries)
        self.final = nn.Parameter(zeros.clone(), requires_grad=use_sequence_boundaries)

    def _require_input(self, h: Tensor) -> None:
        width = self.num_classes if self.hidden_dim is None else self.hidden_dim
        if h.ndim != 3 or not h.shape[0] or h.shape[2] != width:
            raise InputError(f"the input is [batch, T, {width}] with batch >= 1, got {list(h.shape)}")

    def potentials(self, h: Tensor, lengths: Tensor | None = None, start: str = "pi") -> list[Potentials]:
        """The scores: one `Potentials` for the batch, or with `restore` one for each row."""
        self._require_input(h)
        lengths = require_lengths(lengths, h.shape[0], h.shape[1], h.device)
        cum, mean = prefix_sums(self.emission(h), lengths, self.centering, self.precision)
        duration = self.duration()
        projections = (self.start_projection, self.end_projection)
        sides = [None if each is None else each(h).to(self.precision) for each in projections]
        initial = self.initial if start == "pi" else None
        final = self.final if start == "pi" else None

        def of(part: slice, table: Tensor) -> Potentials:
            own = [side[part] if side is not None else None for side in sides]
            return Potentials.of(
                cum[part], self.transition, table, lengths[part], start, initial, final, *own
            )

        if not self.restore:
            return [of(slice(None), duration)]
        steps = torch.arange(1, self.max_duration + 1, dtype=mean.dtype, device=mean.device)[:, None]
        return [of(slice(b, b + 1), duration + steps * mean[b]) for b in range(len(h))]

    def distributions(
        self, h: Tensor, lengths: Tensor | None = None, start: str = "pi"
    ) -> list[SemiCRFDistribution]:
        """The distribution over segmentations: one for the batch, or with `restore` one for each row."""
        settings = (self.checkpoint_interval, self.backend)
        return [SemiCRFDistribution(each, *settings) for each in self.potentials(h, lengths, start)]

    def log_partition(self, h: Tensor, lengths: Tensor | None = None, start: str = "pi") -> Tensor:
        """Log partition `[batch]`; `start="virtual"` is torch-struct's convention, see `Potentials.of`."""
        return torch.cat([each.partition for each in self.distributions(h, lengths, start)])

    def nll(
        self,
        h: Tensor,
        lengths: Tensor | None = None,
        labels: Tensor | None = None,
        segments: Paths | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Negative log-likelihood in nats of `labels` int64 `[batch, T]` or of `segments`.

        From labels, runs longer than K are cut into pieces of K and a rest.

        Parameters
        ----------
        reduction
            `"mean"` over rows, `"sum"`, `"token"` (sum over rows by the number of tokens) or `"none"`.

        Raises
        ------
        InputError
            if not exactly one of labels and segments is given, or they do not fit.
        """
        if (labels is None) == (segments is None):
            raise InputError("give either labels or segments")
        self._require_input(h)
        lengths = require_lengths(lengths, h.shape[0], h.shape[1], h.device)
        if labels is not None:
            if labels.shape != h.shape[:2]:
                raise InputError(f"labels are {list(h.shape[:2])}, got {list(labels.shape)}")
            rows = zip(labels.tolist(), lengths.tolist(), strict=True)
            segments = [labels_to_segments(row[:length], self.max_duration) for row, length in rows]
        assert segments is not None
        found, at = [], 0
        for each in self.distributions(h, lengths):
            size = len(each.potentials.lengths)
            found.append(each.partition - gold_score(each.potentials, segments[at : at + size]))
            at += size
        losses = torch.cat(found)
        match reduction:
            case "mean":
                return losses.mean()
            case "sum":
                return losses.sum()
            case "token":
                return losses.sum() / lengths.sum()
            case "none":
                return losses
        raise InputError(f'reduction is "mean", "sum", "token" or "none", got {reduction!r}')

    forward = nll

    @torch.no_grad()
    def decode(self, h: Tensor, lengths: Tensor | None = None) -> list[list[Segment]]:
        """The best segmentation of each row (Viterbi)."""
        return [path for each in self.distributions(h, lengths) for path in each.argmax]

    @torch.no_grad()
    def marginals(self, h: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Boundary `[batch, T]` (a segment ends with token t) and position `[batch, T, C]` marginals."""
        found = [each.marginals for each in self.distributions(h, lengths)]
        return torch.cat([boundary for boundary, _ in found]), torch.cat([position for _, position in found])

    @torch.no_grad()
    def entropy(self, h: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Entropy `[batch]` of the segmentation, in nats."""
        return torch.cat([each.entropy for each in self.distributions(h, lengths)])

    @torch.no_grad()
    def sample(
        self, h: Tensor, lengths: Tensor | None = None, n: int = 1, generator: torch.Generator | None = None
    ) -> list[list[list[Segment]]]:
        """`n` segmentations a row, `[n][batch]` lists of segments."""
        drawn = [each.sample(n, generator) for each in self.distributions(h, lengths)]
        return [[path for rows in drawn for path in rows[index]] for index in range(n)]
