"""What a user may set of A-MOT for one model, in ``models.yaml`` and while it runs."""

from __future__ import annotations

from dataclasses import dataclass

OBJECTIVES = ('printed', 'weighted')
LEAST_RATIO = 0.01


@dataclass(frozen=True)
class AmotOptions:
    """Where the networks are, and what A-MOT may send.

    networks: folder of a ``bundle``; the robot needs no more of it than the classifier.
    first_ratio: share of the patches that the first round samples. confidence: from it on the first
    round's answer is final. traffic_budget: share of a raw image's bytes that an image may take on
    average; all that is sent counts. adaptive: patches of the second round by what calibration
    found (``allocation``), where the server has that; else the share that the first round leaves
    of the budget. objective: of that allocation, as the paper prints it or weighted by how many
    images are in an interval of confidence.
    """

    networks: str
    first_ratio: float = 0.3
    confidence: float = 0.8
    traffic_budget: float = 0.4
    adaptive: bool = True
    objective: str = 'weighted'

    def __post_init__(self) -> None:
        for name in ('first_ratio', 'traffic_budget'):
            value = getattr(self, name)
            if not LEAST_RATIO <= value <= 1.0:
                raise ValueError(f'amot.{name}: a share from {LEAST_RATIO} to 1, not {value}')
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f'amot.confidence: from 0 to 1, not {self.confidence}')
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"amot.objective: '{self.objective}' is not one of {', '.join(OBJECTIVES)}"
            )
        if not self.networks:
            raise ValueError('amot.networks: a folder of networks (classifier/, mae/, ...)')

    @property
    def weighted(self) -> bool:
        """Whether the objective counts images."""
        return self.objective == 'weighted'
