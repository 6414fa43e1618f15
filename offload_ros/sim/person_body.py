"""The body of a walking person: proportions, colours, joints and the COCO keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_ros.sim.gl import mujoco
from offload_ros.sim.objects.registry import pick, shade
from offload_ros.sim.shapes import Colour, Vector

KEYPOINTS = (
    'nose',
    'left_eye',
    'right_eye',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
)
JOINTS = (
    'x',
    'y',
    'z',
    'yaw',
    'twist',
    'look',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
)

SKINS: tuple[Colour, ...] = (
    (0.96, 0.80, 0.69),
    (0.87, 0.67, 0.52),
    (0.68, 0.48, 0.34),
    (0.45, 0.30, 0.21),
)
HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.07),
    (0.36, 0.22, 0.12),
    (0.80, 0.64, 0.32),
    (0.55, 0.55, 0.56),
)
SHIRTS: tuple[Colour, ...] = (
    (0.85, 0.18, 0.16),
    (0.12, 0.38, 0.80),
    (0.16, 0.60, 0.34),
    (0.98, 0.76, 0.14),
    (0.94, 0.94, 0.94),
    (0.60, 0.26, 0.65),
)
TROUSERS: tuple[Colour, ...] = (
    (0.14, 0.18, 0.34),
    (0.16, 0.16, 0.17),
    (0.48, 0.42, 0.32),
    (0.30, 0.38, 0.46),
)


@dataclass(frozen=True)
class Body:
    """Lengths of a person's body (metres) and its colours."""

    height: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour

    @property
    def hip_height(self) -> float:
        """Height of the hip joints when standing straight."""
        return 0.52 * self.height

    @property
    def thigh(self) -> float:
        """From hip to knee."""
        return 0.245 * self.height

    @property
    def shank(self) -> float:
        """From knee to ankle."""
        return 0.23 * self.height

    @property
    def ankle_height(self) -> float:
        """From the sole to the ankle."""
        return self.hip_height - self.thigh - self.shank


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a person."""
    return Body(
        float(rng.uniform(1.60, 1.85)),
        pick(rng, SKINS),
        pick(rng, HAIRS),
        pick(rng, SHIRTS),
        pick(rng, TROUSERS),
    )


def add_person(spec: Any, name: str, body: Body) -> None:
    """Add the person's bodies, joints ``<name>_<joint>`` and sites ``<name>_<keypoint>``.

    The root moves along x, y, z and turns about z; positive angles swing a limb to the front, bend
    a knee to the back and an elbow to the front.
    """
    h = body.height
    root = spec.worldbody.add_body(name=name)
    for joint, axis in (('x', (1, 0, 0)), ('y', (0, 1, 0)), ('z', (0, 0, 1))):
        root.add_joint(name=f'{name}_{joint}', type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    _hinge(root, f'{name}_yaw', (0, 0, 1))
    pelvis = root.add_body(name=f'{name}_pelvis', pos=(0, 0, body.hip_height))
    _ellipsoid(pelvis, (0.062 * h, 0.095 * h, 0.07 * h), (0, 0, 0.02 * h), body.trousers)
    _add_upper_body(pelvis, name, body)
    for side, sign in (('left', 1), ('right', -1)):
        _add_leg(pelvis, f'{name}_{side}', sign, body)


def _add_upper_body(pelvis: Any, name: str, body: Body) -> None:
    h = body.height
    torso = pelvis.add_body(name=f'{name}_torso', pos=(0, 0, 0.06 * h))
    _hinge(torso, f'{name}_twist', (0, 0, 1))
    _ellipsoid(torso, (0.060 * h, 0.088 * h, 0.13 * h), (0, 0, 0.08 * h), body.shirt)
    _ellipsoid(torso, (0.066 * h, 0.108 * h, 0.10 * h), (0, 0, 0.17 * h), body.shirt)
    _capsule(torso, (0, 0.085 * h, 0.225 * h), (0, -0.085 * h, 0.225 * h), 0.042 * h, body.shirt)
    _capsule(torso, (0, 0, 0.25 * h), (0.005, 0, 0.31 * h), 0.030 * h, body.skin)
    _add_head(torso, name, body)
    for side, sign in (('left', 1), ('right', -1)):
        _add_arm(torso, f'{name}_{side}', sign, body)


def _add_head(torso: Any, name: str, body: Body) -> None:
    """Add the head: hair behind and above, face in front, so that its facing can be seen."""
    h = body.height
    head = torso.add_body(name=f'{name}_head', pos=(0.008 * h, 0, 0.355 * h))
    _hinge(head, f'{name}_look', (0, 0, 1))
    _ellipsoid(head, (0.056 * h, 0.046 * h, 0.068 * h), (0, 0, 0), body.skin)
    _ellipsoid(head, (0.054 * h, 0.050 * h, 0.062 * h), (-0.012 * h, 0, 0.016 * h), body.hair)
    _ellipsoid(head, (0.040 * h, 0.045 * h, 0.022 * h), (0.008 * h, 0, 0.058 * h), body.hair)
    nose = (0.060 * h, 0.0, -0.006 * h)
    _ellipsoid(head, (0.012 * h, 0.008 * h, 0.012 * h), nose, shade(body.skin, 0.86))
    _capsule(
        head,
        (0.050 * h, 0.014 * h, -0.034 * h),
        (0.050 * h, -0.014 * h, -0.034 * h),
        0.005 * h,
        (0.66, 0.22, 0.22),
    )
    _site(head, f'{name}_nose', nose)
    for side, sign in (('left', 1), ('right', -1)):
        eye = (0.049 * h, sign * 0.019 * h, 0.012 * h)
        ear = (-0.002 * h, sign * 0.049 * h, 0.0)
        _ellipsoid(head, (0.008 * h, 0.010 * h, 0.007 * h), eye, (0.97, 0.97, 0.97))
        pupil = (eye[0] + 0.006 * h, eye[1], eye[2])
        _ellipsoid(head, (0.004 * h, 0.005 * h, 0.005 * h), pupil, (0.06, 0.05, 0.05))
        _ellipsoid(head, (0.011 * h, 0.006 * h, 0.016 * h), ear, shade(body.skin, 0.9))
        _site(head, f'{name}_{side}_eye', eye)
        _site(head, f'{name}_{side}_ear', ear)


def _add_arm(torso: Any, name: str, sign: int, body: Body) -> None:
    h = body.height
    upper, fore = 0.165 * h, 0.145 * h
    shoulder = torso.add_body(name=f'{name}_arm', pos=(0, sign * 0.115 * h, 0.225 * h))
    _hinge(shoulder, f'{name}_shoulder', (0, -1, 0))
    _capsule(shoulder, (0, 0, 0), (0, sign * 0.02 * h, -upper), 0.029 * h, body.shirt)
    elbow = shoulder.add_body(name=f'{name}_forearm', pos=(0, sign * 0.02 * h, -upper))
    _hinge(elbow, f'{name}_elbow', (0, -1, 0))
    _capsule(elbow, (0, 0, 0), (0, 0, -fore), 0.022 * h, body.skin)
    hand = (0.004 * h, 0.0, -fore - 0.035 * h)
    _ellipsoid(elbow, (0.022 * h, 0.013 * h, 0.042 * h), hand, shade(body.skin, 0.95))
    _site(shoulder, f'{name}_shoulder', (0, 0, 0))
    _site(elbow, f'{name}_elbow', (0, 0, 0))
    _site(elbow, f'{name}_wrist', (0, 0, -fore))


def _add_leg(pelvis: Any, name: str, sign: int, body: Body) -> None:
    h = body.height
    thigh = pelvis.add_body(name=f'{name}_leg', pos=(0, sign * 0.052 * h, 0))
    _hinge(thigh, f'{name}_hip', (0, -1, 0))
    _capsule(thigh, (0, 0, 0), (0, 0, -body.thigh), 0.046 * h, body.trousers)
    shank = thigh.add_body(name=f'{name}_shank', pos=(0, 0, -body.thigh))
    _hinge(shank, f'{name}_knee', (0, 1, 0))
    _capsule(shank, (0, 0, 0), (0, 0, -body.shank), 0.034 * h, shade(body.trousers, 0.9))
    sole = -body.shank - body.ankle_height
    heel, toe = (-0.022 * h, 0.0, sole + 0.022 * h), (0.085 * h, 0.0, sole + 0.020 * h)
    _capsule(shank, heel, toe, 0.021 * h, (0.10, 0.09, 0.09))
    _site(thigh, f'{name}_hip', (0, 0, 0))
    _site(shank, f'{name}_knee', (0, 0, 0))
    _site(shank, f'{name}_ankle', (0, 0, -body.shank))


def _hinge(body: Any, name: str, axis: Vector) -> None:
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=axis)


def _site(body: Any, name: str, position: Vector) -> None:
    body.add_site(name=name, pos=position, group=5)


def _ellipsoid(body: Any, radii: Vector, position: Vector, colour: Colour) -> None:
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=radii, pos=position, rgba=(*colour, 1))


def _capsule(body: Any, start: Vector, end: Vector, radius: float, colour: Colour) -> None:
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CAPSULE,
        size=(radius, 0, 0),
        fromto=(*start, *end),
        rgba=(*colour, 1),
    )
