"""What can be chosen about planning; defaults are AGRNav's where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field

from offload_ros.tracking.checks import require, within


@dataclass(frozen=True)
class Limits:
    """Largest speed and acceleration, as lengths of the vectors; so they hold per axis as well."""

    speed_mps: float = 2.5
    acceleration_mps2: float = 2.0

    def __post_init__(self) -> None:
        within('speed_mps', self.speed_mps, 0.05, 20.0)
        within('acceleration_mps2', self.acceleration_mps2, 0.05, 20.0)


@dataclass(frozen=True)
class GeometricConfig:
    """Of the search for a way: step of the grid, factor of the heuristic, cost of height.

    flight_price: a metre flown counts as so many driven when it is chosen whether to fly.
    """

    cell_m: float = 0.2
    heuristic: float = 5.0
    airborne: float = 2.0
    flight_price: float = 5.0

    def __post_init__(self) -> None:
        within('cell_m', self.cell_m, 0.02, 2.0)
        within('heuristic', self.heuristic, 0.0, 100.0)
        within('airborne', self.airborne, 0.0, 1e3)
        within('flight_price', self.flight_price, 1.0, 1e3)


@dataclass(frozen=True)
class KinodynamicConfig:
    """Of the search for a motion.

    step_s: duration of a primitive; checks: places looked at in each; time_weight: cost of a second
    beside that of squared acceleration; flying_per_m, flying_base: cost of a state in the air;
    heuristic: its factor; horizon_m: how far it searches; limit_s: of computing, whatever else the
    machine does.
    """

    step_s: float = 0.6
    checks: int = 5
    time_weight: float = 10.0
    flying_per_m: float = 10.0
    flying_base: float = 10.0
    heuristic: float = 3.0
    horizon_m: float = 5.0
    cell_m: float = 0.1
    limit_s: float = 0.04

    def __post_init__(self) -> None:
        within('step_s', self.step_s, 0.05, 5.0)
        require(1 <= self.checks <= 100, f'checks must be from 1 to 100, not {self.checks}')
        within('time_weight', self.time_weight, 0.01, 1e4)
        within('flying_per_m', self.flying_per_m, 0.0, 1e4)
        within('flying_base', self.flying_base, 0.0, 1e4)
        within('heuristic', self.heuristic, 0.0, 100.0)
        within('horizon_m', self.horizon_m, 0.5, 100.0)
        within('cell_m', self.cell_m, 0.02, 2.0)
        within('limit_s', self.limit_s, 0.001, 60.0)


@dataclass(frozen=True)
class RefineConfig:
    """Of the spline: distance of its control points at full speed, weights, iterations.

    margin_m: room wanted between body and obstacles (published: 0.4 m from the robot's middle). The
    published weight of the end point is missing: here a spline ends exactly where it should.
    limit_s: of computing.
    """

    spacing_m: float = 0.5
    margin_m: float = 0.18
    smoothness: float = 10.0
    clearance: float = 5.0
    feasibility: float = 1e-5
    waypoint: float = 10.0
    curvature: float = 0.005
    curvature_max: float = 0.5
    iterations: int = 300
    limit_s: float = 0.02

    def __post_init__(self) -> None:
        within('spacing_m', self.spacing_m, 0.05, 5.0)
        within('margin_m', self.margin_m, 0.0, 2.0)
        for name in ('smoothness', 'clearance', 'feasibility', 'waypoint', 'curvature'):
            within(name, getattr(self, name), 0.0, 1e6)
        within('curvature_max', self.curvature_max, 0.0, 100.0)
        require(0 <= self.iterations <= 10_000, 'iterations must be from 0 to 10000')
        within('limit_s', self.limit_s, 0.001, 60.0)


@dataclass(frozen=True)
class PlanConfig:
    """All of it.

    goal_tolerance_m: how far a goal that is not free may be moved; escape_m: how far the robot may
    go to the next free place when it is somewhere where it does not fit. approach: a goal outside
    the map is approached as far as the map reaches; otherwise it is refused. limit_s: of a plan.
    """

    limits: Limits = field(default_factory=Limits)
    geometric: GeometricConfig = field(default_factory=GeometricConfig)
    kinodynamic: KinodynamicConfig = field(default_factory=KinodynamicConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    goal_tolerance_m: float = 0.5
    escape_m: float = 0.6
    approach: bool = True
    limit_s: float = 1.0

    def __post_init__(self) -> None:
        within('goal_tolerance_m', self.goal_tolerance_m, 0.0, 5.0)
        within('escape_m', self.escape_m, 0.0, 5.0)
        within('limit_s', self.limit_s, 0.005, 600.0)
