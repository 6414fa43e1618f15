"""Objects: enough kinds, true sizes, and nobody stands in another."""

import itertools
import math

import numpy as np
import pytest

from offload_ros.sim import KINDS, PersonConfig, World, WorldConfig
from offload_ros.sim.freespace import Obstacles
from offload_ros.sim.layout import HEADROOM_M, too_close
from offload_ros.sim.objects import size_of
from offload_ros.sim.shapes import convex_hull

from .conftest import Gaps


def lone(kind, seed=0):
    """Return a world with nothing but one object."""
    config = WorldConfig(
        kinds=(kind,), object_count=1, inner_wall=False, person=PersonConfig(count=0)
    )
    return World(seed=seed, config=config)


def test_there_are_at_least_twenty_kinds():
    assert len(KINDS) >= 20


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_kind_varies_with_its_seed_and_repeats_with_it(kind):
    build = KINDS[kind].build
    first, again, other = (build(np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(0.05 < edge < 2.6 for edge in size_of(first))


@pytest.mark.parametrize('kind', sorted(KINDS))
def test_rays_meet_the_kind_only_inside_its_box_and_footprint(kind):
    with lone(kind) as world:
        thing = world.truth().objects[0]
        size = np.array(thing.size)
        steps = np.linspace(-0.7, 0.7, 29)
        grid = np.stack(np.meshgrid(steps, steps, indexing='ij'), -1).reshape(-1, 2)
        c, s = math.cos(thing.yaw), math.sin(thing.yaw)
        turn = np.array([[c, -s], [s, c]])
        down = np.array([[0.0, 0.0, -1.0]])
        ceiling = world.config.wall_height_m - 0.01
        footprint = Obstacles(world.objects[0].footprints)
        met = []
        for local in grid * (size[:2] + 0.1):
            x, y = turn @ local + (thing.x, thing.y)
            distance, entity = world.cast(np.array([x, y, ceiling]), down)
            if entity[0] == thing.id:
                height = ceiling - distance[0]
                met.append((*local, height))
                if height < HEADROOM_M:
                    assert footprint.distance(np.array([[x, y]]))[0] < 0.01
        assert met
        reach = np.abs(np.array(met)).max(0)
        assert (reach <= (*(size[:2] / 2 + 1e-3), size[2] + 1e-3)).all()
        assert reach[2] > 0.6 * size[2]


@pytest.mark.parametrize('seed', range(4))
def test_no_solid_of_an_object_touches_another_object_or_a_wall(seed):
    with World(seed=seed) as world:
        gaps = Gaps(world)
        wall = gaps.of(world.kinds.index('wall'))
        solids = [(o, gaps.of(o.id)) for o in world.truth().objects]
        for thing, solid in solids:
            # Only skirting boards, door frames and pictures may come nearer than the wall itself.
            assert gaps.smallest(solid, wall, 0.1) > -0.05, thing
        for (a, first), (b, second) in itertools.combinations(solids, 2):
            limit = -1e-6 if a.z == b.z else -0.01  # what stands on a table touches it
            assert gaps.smallest(first, second, 0.1) > limit, (a, b)


@pytest.mark.parametrize('kind', ['table', 'fan', 'plant', 'ball'])
def test_objects_are_so_many_times_their_usual_size(kind):
    def size(scale):
        config = WorldConfig(
            kinds=(kind,), object_count=1, object_scale=scale, person=PersonConfig(count=0)
        )
        with World(seed=3, config=config) as world:
            return np.array(world.objects[0].size)

    np.testing.assert_allclose(size(1.25), 1.25 * size(1.0))


def test_distance_check_notices_an_overlap():
    with World(seed=0) as world:
        gaps = Gaps(world)
        a, b = world.truth().objects[:2]
        body = world.model.body(f'object{b.id - a.id}')
        body.pos[:2] = (a.x, a.y)
        assert gaps.smallest(gaps.of(a.id), gaps.of(b.id)) < 0


def test_small_things_stand_on_top_of_larger_ones():
    on_top = [
        thing for seed in range(5) for thing in World(seed=seed).truth().objects if thing.z > 0
    ]
    assert on_top
    assert all(KINDS[thing.kind].place == 'top' for thing in on_top)


def test_every_kind_is_used_once_before_one_comes_twice():
    kinds = [o.kind for o in World(seed=3, config=WorldConfig(object_count=15)).objects]
    assert len(set(kinds)) == len(kinds) > 10


def test_polygons_that_overlap_touch_or_stay_apart_are_told_apart():
    square = convex_hull(np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0.5, 0.5)]))
    assert len(square) == 4
    assert too_close(square, square + 0.9, 0.0)
    assert not too_close(square, square + np.array([1.1, 0]), 0.0)
    assert too_close(square, square + np.array([1.1, 0]), 0.2)
    assert too_close(square, square * 0.2 + 0.4, 0.0)  # one inside the other
