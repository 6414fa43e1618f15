"""KAPAO's post-processing against one that goes through everything one by one."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from offload_ros.graph import custom  # noqa: F401  # defines the operator
from offload_ros.models import kapao_poses
from offload_ros.models.kapao_poses import detect_poses

ROBOT = (0.7, 0.45, 0.5, 0.45, 0.2, 25.0)
VALIDATION = (0.001, 0.625, 0.2, 0.25, 0.3, 50.0)  # with an IoU that float32 has exactly
ONE_PASS = (0.25, 0.5, 0.375, 0.5, 0.5, 8.0)


def slow(candidates, person_score, person_iou, keypoint_score, keypoint_iou, gate, tolerance,
         scale_x=1.0, scale_y=1.0, left=0.0, top=0.0):  # fmt: skip
    """Plain Python, from the published description."""
    objects = []
    for index, row in enumerate(candidates.tolist()):
        kind = max(range(18), key=lambda each, row=row: (row[5 + each], -each))
        score = float(np.float32(row[5 + kind]) * np.float32(row[4]))
        x, y, w, h = row[:4]
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        objects.append((-score, index, kind, corners, row))
    objects.sort(key=lambda each: each[:2])

    def suppressed(chosen, iou):
        kept = []
        for each in chosen:
            if len(kept) == 300:
                break
            if all(each[2] != other[2] or overlap(each[3], other[3]) <= iou for other in kept):
                kept.append(each)
        return kept

    if person_iou == keypoint_iou and keypoint_score >= person_score:
        kept = suppressed([each for each in objects if -each[0] > person_score], person_iou)
        persons = [each for each in kept if each[2] == 0]
        points = [each for each in kept if each[2] > 0 and -each[0] >= keypoint_score]
    else:
        persons = suppressed(
            [each for each in objects if each[2] == 0 and -each[0] > person_score], person_iou
        )
        points = suppressed(
            [each for each in objects if each[2] > 0 and -each[0] > keypoint_score], keypoint_iou
        )

    def moved(x, y):
        return (x - left) / scale_x, (y - top) / scale_y

    poses = [
        [[*moved(row[23 + 2 * k], row[24 + 2 * k]), 0.0] for k in range(17)]
        for _, _, _, _, row in persons
    ]
    boxes = [
        [*moved(*corners[:2]), *moved(*corners[2:]), -negative]
        for negative, _, _, corners, _ in persons
    ]
    above = [pose for pose, each in zip(poses, persons, strict=True) if -each[0] > gate]
    for negative, _, kind, _, row in points:
        if not above:
            break
        x, y = moved(row[0], row[1])
        far = [((p[kind - 1][0] - x) ** 2 + (p[kind - 1][1] - y) ** 2) ** 0.5 for p in above]
        nearest = far.index(min(far))
        if far[nearest] < tolerance and -negative > above[nearest][kind - 1][2]:
            above[nearest][kind - 1] = [x, y, -negative]
    return poses, boxes


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, other)]
    union = areas[0] + areas[1] - common
    return common / union if union else 0.0


def drawn(seed, count, spread, levels, classes=18):
    """Candidates on a coarse grid: scores, overlaps and distances tie often, and are exact."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 57), np.float32)
    rows[:, :2] = random.integers(0, spread, (count, 2))
    rows[:, 2:4] = 2 * random.integers(0, 9, (count, 2))
    rows[:, 4] = random.integers(0, levels + 1, count) / levels
    rows[:, 5 : 5 + classes] = random.integers(0, 3, (count, classes)) / 4
    best = random.integers(0, classes, count)
    rows[np.arange(count), 5 + best] = random.integers(2, 5, count) / 4
    rows[:, 23:] = random.integers(0, spread, (count, 34))
    return torch.from_numpy(rows)


def same(found, wanted):
    for tensor, values, shape in zip(found, wanted, ((-1, 17, 3), (-1, 5)), strict=True):
        assert tensor.dtype is torch.float32
        expected = torch.tensor(values, dtype=torch.float32).reshape(shape)
        assert torch.equal(tensor, expected)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 120),
    spread=st.sampled_from([4, 32, 200]),
    levels=st.sampled_from([1, 4, 64]),
    classes=st.sampled_from([1, 3, 18]),
    thresholds=st.one_of(
        st.sampled_from([ROBOT, VALIDATION, ONE_PASS]),
        st.tuples(*[st.integers(0, 8).map(lambda each: each / 8)] * 5, st.integers(0, 40)),
    ),
    scale=st.sampled_from([1.0, 0.5, 0.25]),
    border=st.integers(0, 20),
)
def test_results_equal_those_of_the_slow_one(
    seed, count, spread, levels, classes, thresholds, scale, border
):
    candidates = drawn(seed, count, spread, levels, classes)
    place = (scale, scale / 2, 0.0, float(border))
    same(detect_poses(candidates, *thresholds, *place), slow(candidates, *thresholds, *place))


@pytest.mark.parametrize('thresholds', [ROBOT, VALIDATION, ONE_PASS])
@pytest.mark.parametrize('spread', [10, 60, 4000])
def test_a_thousand_candidates(thresholds, spread):
    """In a heap, in groups, and spread so far that 300 are not all."""
    candidates = drawn(spread, 1000, spread, 64, 2 if spread == 4000 else 18)
    same(detect_poses(candidates, *thresholds), slow(candidates, *thresholds))


def test_three_hundred_remain():
    candidates = drawn(3, 1000, 100_000, 64, 1)
    poses, boxes = detect_poses(candidates, 0.001, 0.65, 0.2, 0.25, 0.3, 50.0)
    assert (len(poses), len(boxes)) == (300, 300)
    assert torch.equal(boxes[:, 4], boxes[:, 4].sort(descending=True).values)


def test_no_candidates_and_none_above_the_thresholds():
    for candidates in (torch.zeros(0, 57), torch.zeros(50, 57), torch.full((9, 57), torch.nan)):
        poses, boxes = detect_poses(candidates, *ROBOT)
        assert (tuple(poses.shape), tuple(boxes.shape)) == ((0, 17, 3), (0, 5))


def test_a_chain_of_overlaps_longer_than_a_block():
    """Each takes away the next one alone: whether one remains depends on all before it."""
    count = 3 * kapao_poses._BLOCK // 2
    candidates = torch.zeros(count, 57)
    candidates[:, 0] = 4.0 * torch.arange(count)
    candidates[:, 2:4] = 12.0
    candidates[:, 4], candidates[:, 5] = torch.linspace(1.0, 0.8, count), 1.0
    _, boxes = detect_poses(candidates, 0.5, 0.3, 0.9, 0.9, 0.2, 1.0)
    assert boxes[:, 0].tolist() == [8.0 * each - 6.0 for each in range(count // 2)]


def person(x, y, score, keypoint):
    row = torch.zeros(57)
    row[:4] = torch.tensor([x, y, 40.0, 80.0])
    row[4], row[5] = 1.0, score
    row[23:] = torch.tensor(keypoint * 17)
    return row


def point(kind, x, y, score):
    row = torch.zeros(57)
    row[:4] = torch.tensor([x, y, 10.0, 10.0])
    row[4], row[5 + kind] = 1.0, score
    return row


def test_a_keypoint_goes_to_the_nearest_person_and_the_best_one_stays():
    candidates = torch.stack(
        [
            person(100.0, 100.0, 0.9, [100.0, 100.0]),
            person(200.0, 100.0, 0.8, [200.0, 100.0]),
            point(1, 110.0, 100.0, 0.6),
            point(1, 120.0, 100.0, 0.95),
            point(3, 190.0, 100.0, 0.7),
            point(4, 150.0, 160.0, 0.7),  # near nobody
        ]
    )
    poses, boxes = detect_poses(candidates, *ROBOT)
    assert boxes[:, 4].tolist() == pytest.approx([0.9, 0.8])
    assert poses[0, 0].tolist() == pytest.approx([120.0, 100.0, 0.95])
    assert poses[1, 2].tolist() == pytest.approx([190.0, 100.0, 0.7])
    placed = poses[..., 2].nonzero().tolist()
    assert placed == [[0, 0], [1, 2]]
    # A person that is not above the gate gets none.
    gated = detect_poses(candidates, *ROBOT[:4], 0.85, 25.0)[0]
    assert gated[..., 2].nonzero().tolist() == [[0, 0]]


def test_tolerance_and_results_are_in_pixels_of_the_cameras_image():
    candidates = torch.stack(
        [person(100.0, 100.0, 0.9, [100.0, 100.0]), point(1, 110.0, 100.0, 0.6)]
    )
    for scale, placed in ((0.5, True), (0.25, False)):  # 20 and 40 pixels of the camera's
        poses, boxes = detect_poses(candidates, *ROBOT, scale, scale, 0.0, 20.0)
        assert boxes[0, :4].tolist() == [80 / scale, 40 / scale, 120 / scale, 120 / scale]
        wanted = [110 / scale, 80 / scale] if placed else [100 / scale, 80 / scale]
        assert poses[0, 0, :2].tolist() == wanted
        assert bool(poses[0, 0, 2] > 0) == placed


def test_another_form_is_refused():
    for shape in ((5, 56), (1, 5, 57), (57,)):
        with pytest.raises(ValueError, match=r'candidates \(M, 57\)'):
            torch.ops.offload_ros.detect_poses(torch.zeros(shape), *ROBOT)


def test_half_precision_is_computed_as_float32():
    candidates = drawn(5, 80, 60, 8)
    wanted = detect_poses(candidates, *VALIDATION)
    found = detect_poses(candidates.half(), *VALIDATION)
    assert all(torch.equal(*each) for each in zip(found, wanted, strict=True))
    assert len(wanted[0]) > 0
