"""Compiles room, objects, people and robot into one MuJoCo model.

Nothing in it moves by forces: people and robot are placed by their joint positions, and MuJoCo
works out where every surface is, draws it and casts rays at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.sim.config import WorldConfig
from offload_ros.sim.gl import mujoco
from offload_ros.sim.layout import Placed
from offload_ros.sim.person_body import Body, add_person
from offload_ros.sim.room import WALL_M, Room
from offload_ros.sim.shapes import Array, Part
from offload_ros.sim.textures import FLOORS, TEXTURES, Image

# Geometry groups: what a viewer from above or the robot's own sensors must not see.
CEILING_GROUP = 3
ROBOT_GROUP = 4

NONE, FLOOR, WALL, CEILING = 0, 1, 2, 3
ROOM_KINDS = ('none', 'floor', 'wall', 'ceiling')

ROBOT = 'robot'
CAMERA = 'camera'


@dataclass(frozen=True)
class Scene:
    """The compiled world.

    kinds names every entity: its index is the entity's number in segmentation images (0 none,
    1 floor, 2 wall, 3 ceiling, then objects, then people). geom_entity (G,) int32 gives the entity
    of every MuJoCo geom; the robot's own geoms belong to none.
    """

    model: Any
    kinds: tuple[str, ...]
    geom_entity: npt.NDArray[np.int32]


def person_name(index: int) -> str:
    """Return the name of a person's root body."""
    return f'person{index}'


def build_scene(
    config: WorldConfig,
    room: Room,
    objects: Sequence[Placed],
    people: Sequence[Body],
    rng: np.random.Generator,
) -> Scene:
    """Compile the model."""
    spec = mujoco.MjSpec()
    _set_visuals(spec, config)
    _add_materials(spec, room, rng)
    _add_room(spec, room)
    for index, placed in enumerate(objects):
        half = placed.yaw / 2
        body = spec.worldbody.add_body(
            name=f'object{index}',
            pos=(placed.x, placed.y, placed.z),
            quat=(math.cos(half), 0, 0, math.sin(half)),
        )
        for part in placed.shape.parts:
            _add_part(spec, body, part)
    for index, person in enumerate(people):
        add_person(spec, person_name(index), person)
    _add_robot(spec, config)
    for geom in spec.geoms:  # contacts are never asked for
        geom.contype = geom.conaffinity = 0
    model = spec.compile()
    kinds = (*ROOM_KINDS, *(o.kind for o in objects), *('person' for _ in people))
    return Scene(model, kinds, _entities(model, len(objects), len(people)))


def _set_visuals(spec: Any, config: WorldConfig) -> None:
    """Choose what costs little on a CPU: no shadows, no multisampling; even light instead."""
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.global_.offwidth = max(1280, config.camera.width_px)
    spec.visual.global_.offheight = max(960, config.camera.height_px)
    spec.visual.headlight.ambient = (0.50, 0.50, 0.50)
    spec.visual.headlight.diffuse = (0.25, 0.25, 0.25)
    spec.visual.headlight.specular = (0, 0, 0)
    # Clipping planes in metres: MuJoCo multiplies them by the extent.
    spec.stat.extent = 1.0
    spec.visual.map.znear = 0.05
    spec.visual.map.zfar = 60.0
    for direction, strength in (((0.4, 0.3, -0.85), 0.34), ((-0.5, -0.35, -0.6), 0.18)):
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=(0, 0, config.wall_height_m),
            dir=direction,
            diffuse=(strength,) * 3,
            ambient=(0, 0, 0),
            specular=(0.08,) * 3,
            castshadow=False,
        )


def _add_materials(spec: Any, room: Room, rng: np.random.Generator) -> None:
    """Add one material per texture: cube maps for solids, a repeated square for the floor."""
    for name, draw in TEXTURES.items():
        image = draw(rng)
        _add_texture(spec, name, mujoco.mjtTexture.mjTEXTURE_CUBE, cube_faces(image))
        material = spec.add_material(
            name=name, specular=0.1, shininess=0.2, emission=0.5 if name in _LIT else 0.0
        )
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    _add_texture(spec, 'floor', mujoco.mjtTexture.mjTEXTURE_2D, FLOORS[room.floor_texture](rng))
    spec.add_material(name='ceiling', specular=0, emission=0.3)  # no light reaches it from below
    floor = spec.add_material(name='floor', texrepeat=(1, 1), texuniform=True, specular=0)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = 'floor'


def cube_faces(image: Image) -> Image:
    """Return a square picture six times below each other, upright on the sides of a solid.

    OpenGL has the faces +x, -x, +y, -y, +z, -z, all but the fourth turned some way.
    """
    return np.concatenate([np.rot90(image, quarter) for quarter in (1, -1, 2, 0, 0, 0)])


_LIT = ('screen', 'glow', 'window')


def _add_texture(spec: Any, name: str, kind: Any, image: Image) -> None:
    height, width, channels = image.shape
    texture = spec.add_texture(name=name, type=kind, width=width, height=height, nchannel=channels)
    texture.data = image.tobytes()


def _add_room(spec: Any, room: Room) -> None:
    half_x, half_y = room.length_m / 2 + WALL_M, room.width_m / 2 + WALL_M
    world = spec.worldbody
    floor = world.add_body(name='floor')
    floor.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(half_x, half_y, 1),
        material='floor',
        rgba=(*room.floor_colour, 1),
    )
    ceiling = world.add_body(name='ceiling', pos=(0, 0, room.height_m + 0.05))
    ceiling.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=(half_x, half_y, 0.05),
        material='ceiling',
        rgba=(0.94, 0.94, 0.92, 1),
        group=CEILING_GROUP,
    )
    for index, part in enumerate(room.parts):  # a body each: rays are culled body by body
        _add_part(spec, world.add_body(name=f'wall{index}'), part)


def _add_robot(spec: Any, config: WorldConfig) -> None:
    """Add the robot's body, hidden from its own sensors, and its camera."""
    robot, camera = config.robot, config.camera
    base = spec.worldbody.add_body(name=ROBOT)
    for joint, axis in (('x', (1, 0, 0)), ('y', (0, 1, 0))):
        base.add_joint(name=f'{ROBOT}_{joint}', type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
    if config.air is not None:
        base.add_joint(name=f'{ROBOT}_z', type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, 1))
    base.add_joint(name=f'{ROBOT}_yaw', type=mujoco.mjtJoint.mjJNT_HINGE, axis=(0, 0, 1))
    dark, bright = (0.16, 0.17, 0.19, 1), (0.95, 0.62, 0.10, 1)
    cylinder, box = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
    r, top = robot.radius_m, robot.mast_height_m
    for kind, size, position, colour in (
        (cylinder, (r, 0.06, 0), (0, 0, 0.12), bright),
        (cylinder, (r * 0.92, 0.05, 0), (0, 0, 0.23), dark),
        (cylinder, (0.025, top / 2 - 0.12, 0), (-0.05, 0, top / 2 + 0.1), dark),
        (box, (0.03, 0.08, 0.025), (0.08, 0, camera.height_m), dark),
        (cylinder, (0.06, 0.035, 0), (-0.05, 0, top - 0.035), bright),
    ):
        base.add_geom(type=kind, size=size, pos=position, rgba=colour, group=ROBOT_GROUP)
    for side in (-1, 1):
        base.add_geom(
            type=cylinder,
            size=(0.09, 0.02, 0),
            pos=(0, side * (r - 0.05), 0.09),
            quat=(math.sqrt(0.5), math.sqrt(0.5), 0, 0),
            rgba=dark,
            group=ROBOT_GROUP,
        )
    up = math.radians(camera.pitch_up_deg)
    # MuJoCo's camera looks along its -z with x to the right and y up.
    axes = np.array(
        [
            [0.0, -math.sin(up), -math.cos(up)],
            [-1.0, 0.0, 0.0],
            [0.0, math.cos(up), -math.sin(up)],
        ]
    )
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, axes.ravel())
    base.add_camera(
        name=CAMERA,
        pos=(camera.forward_m, 0, camera.height_m),
        quat=quaternion,
        fovy=math.degrees(2 * math.atan(camera.height_px / 2 / camera.focal_px)),
    )


def _add_part(spec: Any, body: Any, part: Part) -> None:
    """Add one solid; cones and rings become meshes."""
    types = mujoco.mjtGeom
    size = part.size
    geom: dict[str, Any] = {'pos': part.position, 'quat': part.rotation, 'rgba': (*part.colour, 1)}
    if part.texture:
        geom['material'] = part.texture
    if part.form == 'box':
        geom |= {'type': types.mjGEOM_BOX, 'size': [edge / 2 for edge in size]}
    elif part.form == 'sphere':
        geom |= {'type': types.mjGEOM_SPHERE, 'size': (size[0], 0, 0)}
    elif part.form == 'ellipsoid':
        geom |= {'type': types.mjGEOM_ELLIPSOID, 'size': size}
    elif part.form == 'cylinder':
        geom |= {'type': types.mjGEOM_CYLINDER, 'size': (size[0], size[1] / 2, 0)}
    elif part.form == 'capsule':
        geom |= {'type': types.mjGEOM_CAPSULE, 'size': (size[0], size[1] / 2, 0)}
    else:
        vertices, faces = _mesh(part)
        name = f'mesh{len(spec.meshes)}'
        spec.add_mesh(
            name=name,
            uservert=vertices.ravel().tolist(),
            userface=faces.ravel().tolist(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )
        geom |= {'type': types.mjGEOM_MESH, 'meshname': name}
    body.add_geom(**geom)


def _mesh(part: Part) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return vertices (V, 3) and triangles (F, 3) of a part that MuJoCo has no solid for."""
    if part.form == 'frustum':
        bottom, top, height = part.size
        return frustum_mesh(bottom, top, height)
    ring, tube = part.size
    return torus_mesh(ring, tube)


def frustum_mesh(
    bottom: float, top: float, height: float, sides: int = 18
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return vertices (V, 3) and triangles (F, 3) of a closed cut-off cone around the origin."""
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(sides)], 1)
    low = ring * bottom - (0, 0, height / 2)
    high = ring * top + (0, 0, height / 2)
    middle = np.array([[0, 0, -height / 2], [0, 0, height / 2]])
    here = np.arange(sides)
    there = (here + 1) % sides
    faces = [
        np.stack([here, there, there + sides], 1),
        np.stack([here, there + sides, here + sides], 1),
        np.stack([there, here, np.full(sides, 2 * sides)], 1),
        np.stack([here + sides, there + sides, np.full(sides, 2 * sides + 1)], 1),
    ]
    return np.concatenate([low, high, middle]), np.concatenate(faces)


def torus_mesh(
    ring: float, tube: float, around: int = 20, across: int = 6
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Return vertices (V, 3) and triangles (F, 3) of a ring around the z axis."""
    u = 2 * np.pi * np.arange(around)[:, None] / around
    v = 2 * np.pi * np.arange(across)[None, :] / across
    reach = ring + tube * np.cos(v)
    height = np.broadcast_to(tube * np.sin(v), (around, across))
    vertices = np.stack([reach * np.cos(u), reach * np.sin(u), height], -1).reshape(-1, 3)
    i, j = (k.ravel() for k in np.meshgrid(range(around), range(across), indexing='ij'))
    a, b = i * across + j, (i + 1) % around * across + j
    c, d = (i + 1) % around * across + (j + 1) % across, i * across + (j + 1) % across
    return vertices, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def _entities(model: Any, objects: int, people: int) -> npt.NDArray[np.int32]:
    """Return the entity number of every geom."""
    root = model.body_rootid
    of_root = np.zeros(model.nbody, np.int32)
    for body in range(model.nbody):
        name = model.body(body).name
        if name == 'floor':
            of_root[body] = FLOOR
        elif name == 'ceiling':
            of_root[body] = CEILING
        elif name.startswith('wall'):
            of_root[body] = WALL
    first = len(ROOM_KINDS)
    for index in range(objects):
        of_root[model.body(f'object{index}').id] = first + index
    for index in range(people):
        of_root[model.body(person_name(index)).id] = first + objects + index
    entity: npt.NDArray[np.int32] = of_root[root[model.geom_bodyid]]
    return entity
