"""People for training: any posture, build and clothes, in the bodies of the simulated world."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field, replace
import math
from typing import Any

import numpy as np

from offload_ros.sim.gl import mujoco
from offload_ros.sim.person import Walker
from offload_ros.sim.person_body import HAIRS, JOINTS, SKINS, Body
from offload_ros.sim.scene import person_name
from offload_ros.sim.shapes import Array, Colour

AWAY_M = -40.0  # where people wait who are not in the picture: below the floor
SHADES = (1.0, 0.95, 0.9, 0.86)  # of a body's colours that its parts have
KINDS = {
    'walking': 0.5,
    'standing': 0.25,
    'gesture': 0.15,
    'sitting': 0.10,
}


@dataclass
class Posed(Walker):
    """A person who stands still in a given posture: angles of the joints in radians."""

    posture: dict[str, float] = field(default_factory=lambda: dict.fromkeys(JOINTS[4:], 0.0))
    away: bool = False

    def joints(self) -> dict[str, float]:
        """Return the position of every joint (metres and radians)."""
        return {
            'x': float(self.position[0]),
            'y': float(self.position[1]),
            'z': AWAY_M if self.away else self._sole_height(self.posture),
            'yaw': self.yaw,
            **self.posture,
        }


def draw_posture(rng: np.random.Generator) -> dict[str, float]:
    """Draw the angles of all joints: in half of the cases those of somebody who walks."""
    kinds = list(KINDS)
    kind = kinds[int(rng.choice(len(kinds), p=list(KINDS.values())))]
    look = float(rng.normal(0.0, 0.4))
    if kind == 'walking':
        return {**_gait(rng), 'look': float(np.clip(look, -1.2, 1.2))}
    posture = {
        'twist': float(rng.normal(0.0, 0.15)),
        'look': float(np.clip(look, -1.2, 1.2)),
        **{f'{side}_hip': float(rng.normal(0.02, 0.08)) for side in ('left', 'right')},
        **{f'{side}_knee': float(abs(rng.normal(0.05, 0.08))) for side in ('left', 'right')},
    }
    for side in ('left', 'right'):
        free = kind == 'gesture'
        posture[f'{side}_shoulder'] = float(rng.uniform(-0.7, 3.0) if free else rng.normal(0, 0.2))
        posture[f'{side}_elbow'] = float(rng.uniform(0.0, 2.4) if free else rng.uniform(0.05, 0.9))
    if kind == 'gesture' and rng.random() < 0.3:
        side = ('left', 'right')[int(rng.integers(2))]
        posture[f'{side}_hip'] = float(rng.uniform(-0.4, 1.3))
        posture[f'{side}_knee'] = float(rng.uniform(0.0, 1.4))
    if kind == 'sitting':
        bend = float(rng.uniform(0.7, 1.6))
        for side in ('left', 'right'):
            posture[f'{side}_hip'] = bend + float(rng.normal(0.0, 0.08))
            posture[f'{side}_knee'] = bend + float(rng.normal(0.1, 0.2))
            posture[f'{side}_shoulder'] = float(rng.uniform(0.0, 0.9))
            posture[f'{side}_elbow'] = float(rng.uniform(0.1, 1.5))
    return posture


def _gait(rng: np.random.Generator) -> dict[str, float]:
    """A walk of any speed and phase, not quite regular."""
    phase, a = rng.uniform(0, 2 * math.pi), rng.uniform(0.2, 1.15)
    wave, lift = math.sin(phase), math.cos(phase)
    reach = a * rng.uniform(0.3, 0.55)
    arms = a * rng.uniform(0.2, 0.6)

    def about(value: float) -> float:
        return value + float(rng.normal(0.0, 0.05))

    return {
        'twist': about(-0.10 * a * wave),
        'left_hip': about(reach * wave + 0.06 * a),
        'right_hip': about(-reach * wave + 0.06 * a),
        'left_knee': abs(about(0.06 + a * (0.10 + 0.85 * max(0.0, lift) ** 2))),
        'right_knee': abs(about(0.06 + a * (0.10 + 0.85 * max(0.0, -lift) ** 2))),
        'left_shoulder': about(-arms * wave),
        'right_shoulder': about(arms * wave),
        'left_elbow': abs(about(0.15 + a * (0.25 - 0.15 * wave))),
        'right_elbow': abs(about(0.15 + a * (0.25 + 0.15 * wave))),
    }


class Wardrobe:
    """Changes build and clothes of one person of a compiled world."""

    def __init__(self, model: Any, index: int, body: Body) -> None:
        self._model, self._base = model, body
        name = person_name(index)
        self._bodies = [
            each
            for each in range(model.nbody)
            if model.body(each).name == name or model.body(each).name.startswith(f'{name}_')
        ]
        self._geoms = [g for g in range(model.ngeom) if int(model.geom_bodyid[g]) in self._bodies]
        self._sites = [s for s in range(model.nsite) if int(model.site_bodyid[s]) in self._bodies]
        self._sizes = {
            'body_pos': model.body_pos[self._bodies].copy(),
            'body_ipos': model.body_ipos[self._bodies].copy(),
            'geom_pos': model.geom_pos[self._geoms].copy(),
            'geom_size': model.geom_size[self._geoms].copy(),
            'site_pos': model.site_pos[self._sites].copy(),
        }
        self._parts = [model.body(int(model.geom_bodyid[g])).name for g in self._geoms]
        self._kinds = [self._kind(model.geom_rgba[g][:3]) for g in self._geoms]
        self._limbs = {
            side: (model.body(f'{name}_{side}_arm').id, model.body(f'{name}_{side}_leg').id)
            for side in ('left', 'right')
        }
        self._torso = model.body(f'{name}_torso').id

    def _kind(self, rgb: Array) -> tuple[str, float]:
        """(what of the body has this colour, how much darker it is); '' for what is fixed."""
        for what in ('skin', 'hair', 'shirt', 'trousers'):
            for factor in SHADES:
                own = np.clip(np.array(getattr(self._base, what)) * factor, 0, 1)
                if np.allclose(own, rgb, atol=2e-3):
                    return what, factor
        return '', 1.0

    def dress(self, rng: np.random.Generator) -> Body:
        """Draw build, clothes and how far the limbs are spread; returns the body as it is now."""
        model = self._model
        height = float(rng.uniform(1.45, 1.95))
        scale, girth = height / self._base.height, float(rng.uniform(0.85, 1.3))
        for name, at in (
            ('body_pos', self._bodies),
            ('body_ipos', self._bodies),
            ('geom_pos', self._geoms),
            ('site_pos', self._sites),
        ):
            getattr(model, name)[at] = self._sizes[name] * scale
        sizes = self._sizes['geom_size'] * scale
        for row, (geom, part) in enumerate(zip(self._geoms, self._parts, strict=True)):
            if part.endswith('_head'):
                continue
            round_part = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CAPSULE
            sizes[row, : 1 if round_part else 2] *= girth
        model.geom_size[self._geoms] = sizes
        body = replace(self._base, height=height)
        self._spread(rng)
        self._colour(rng)
        return body

    def _spread(self, rng: np.random.Generator) -> None:
        """Arms and legs away from the body, the back bent."""
        for sign, side in ((1, 'left'), (-1, 'right')):
            arm, leg = self._limbs[side]
            far = rng.uniform(0.2, 1.4) if rng.random() < 0.2 else abs(rng.normal(0.0, 0.12))
            self._model.body_quat[arm] = _about((1, 0, 0), sign * float(far))
            self._model.body_quat[leg] = _about((1, 0, 0), sign * float(rng.normal(0.02, 0.04)))
        bend = rng.uniform(0.2, 0.7) if rng.random() < 0.1 else rng.normal(0.03, 0.05)
        self._model.body_quat[self._torso] = _about((0, 1, 0), float(bend))

    def _colour(self, rng: np.random.Generator) -> None:
        skin = _between(rng, SKINS)
        hair = skin if rng.random() < 0.05 else _between(rng, HAIRS)
        shirt, trousers = _cloth(rng), _cloth(rng)
        colours = {'skin': skin, 'hair': hair, 'shirt': shirt, 'trousers': trousers}
        long_sleeves, shorts = rng.random() < 0.5, rng.random() < 0.15
        shoes = _cloth(rng)
        for geom, part, (what, factor) in zip(self._geoms, self._parts, self._kinds, strict=True):
            if part.endswith('_forearm') and factor == 1.0 and long_sleeves:
                what = 'shirt'
            if part.endswith('_shank'):
                if what == '':
                    self._model.geom_rgba[geom][:3] = shoes
                    continue
                what = 'skin' if shorts else 'trousers'
            if what:
                self._model.geom_rgba[geom][:3] = np.clip(np.array(colours[what]) * factor, 0, 1)


def _about(axis: tuple[float, float, float], angle: float) -> Array:
    quaternion = np.empty(4)
    mujoco.mju_axisAngle2Quat(quaternion, np.array(axis, float), angle)
    return quaternion


def _between(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """A colour between two of the listed ones, lighter or darker."""
    one, other = (np.array(colours[int(i)]) for i in rng.integers(len(colours), size=2))
    mixed = (one + (other - one) * rng.random()) * rng.uniform(0.85, 1.12)
    r, g, b = np.clip(mixed, 0, 1).tolist()
    return r, g, b


def _cloth(rng: np.random.Generator) -> Colour:
    """Any colour; greys, whites and blacks as often as bright ones."""
    saturation = rng.uniform(0.0, 0.15) if rng.random() < 0.4 else rng.uniform(0.15, 0.95)
    r, g, b = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.08, 1.0))
    return float(r), float(g), float(b)
