"""The robot's RGB-D camera, drawn by OpenGL; colour and depth come from one pass."""

from __future__ import annotations

from typing import Any
import weakref

import numpy as np
import numpy.typing as npt

from offload_ros.sim.config import CameraConfig
from offload_ros.sim.gl import make_context, mujoco
from offload_ros.sim.scene import CAMERA, CEILING_GROUP, ROBOT_GROUP

Rgb = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]


class Camera:
    """Draws one compiled world. Use it from one thread."""

    def __init__(self, model: Any, config: CameraConfig) -> None:
        """Take the compiled world; OpenGL starts with the first picture."""
        self._model = model
        self._config = config
        self._gl: Any = None
        self._context: Any = None
        self._scene: Any = None
        self._free: Any = None
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 1
        self._option.geomgroup[ROBOT_GROUP] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(CAMERA).id

    def rgb_and_depth(self, data: Any) -> tuple[Rgb, Depth]:
        """Return the picture (H, W, 3) uint8 and the depth (H, W) float32 of the same instant.

        Depth is the distance along the optical axis in metres; NaN outside the camera's range.
        """
        self._update(data, self._option, self._camera)
        width, height = self._config.width_px, self._config.height_px
        rgb = np.empty((height, width, 3), np.uint8)
        raw = np.empty((height, width), np.float32)
        self._draw(width, height, rgb, raw)
        return np.ascontiguousarray(rgb[::-1]), self._metres(raw)

    def entities(self, data: Any, geom_entity: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return which entity every pixel shows, (H, W) int32."""
        self._update(data, self._option, self._camera)
        width, height = self._config.width_px, self._config.height_px
        flags = self._scene.flags
        before = flags.copy()
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = 1
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        coded = np.empty((height, width, 3), np.uint8)
        self._draw(width, height, coded, None)
        flags[:] = before
        # A pixel's colour holds the number of the drawn geom plus one, 0 for the background.
        of_drawn = np.zeros(self._scene.ngeom + 1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                of_drawn[geom.segid + 1] = geom_entity[geom.objid]
        code = coded[::-1].astype(np.int32)
        picture: npt.NDArray[np.int32] = of_drawn[
            code[..., 0] + (code[..., 1] << 8) + (code[..., 2] << 16)
        ]
        return picture

    def overview(self, data: Any, width_px: int, height_px: int, view: tuple[float, ...]) -> Rgb:
        """Return a picture (height_px, width_px, 3) of the world without ceiling, robot included.

        view is (x, y, z of the point looked at, distance in metres, azimuth and elevation in deg).
        """
        option = mujoco.MjvOption()
        option.geomgroup[:] = 1
        option.geomgroup[CEILING_GROUP] = 0
        eye = mujoco.MjvCamera()
        eye.lookat[:] = view[:3]
        eye.distance, eye.azimuth, eye.elevation = view[3:6]
        self._update(data, option, eye)
        rgb = np.empty((height_px, width_px, 3), np.uint8)
        self._draw(width_px, height_px, rgb, None)
        return np.ascontiguousarray(rgb[::-1])

    def close(self) -> None:
        """Free what OpenGL holds."""
        if self._free is not None:
            self._free()
        self._free = self._context = self._gl = self._scene = None

    def _update(self, data: Any, option: Any, camera: Any) -> None:
        if self._context is None:
            self._start()
        mujoco.mjv_updateScene(
            self._model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )

    def _start(self) -> None:
        extent = self._model.vis.global_
        self._gl = make_context(extent.offwidth, extent.offheight)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        # Also for who forgets to close: at the interpreter's very end it would be too late.
        self._free = weakref.finalize(self, _free, self._gl, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=self._model.ngeom + 64)
        for flag in ('SHADOW', 'REFLECTION', 'HAZE', 'FOG', 'SKYBOX'):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f'mjRND_{flag}')] = 0

    def _draw(self, width: int, height: int, rgb: Rgb, depth: Depth | None) -> None:
        self._gl.make_current()
        area = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(area, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, depth, area, self._context)

    def _metres(self, raw: Depth) -> Depth:
        """Undo the projection of the depth buffer (1 at the near plane, 0 at the far one)."""
        extent = self._model.stat.extent
        near = self._model.vis.map.znear * extent
        far = self._model.vis.map.zfar * extent
        product, span = np.float32(near * far), np.float32(far - near)
        metres: Depth = product / (raw[::-1] * span + np.float32(near))
        out = (metres < self._config.depth_min_m) | (metres > self._config.depth_max_m)
        metres[out] = np.nan
        return metres


def _free(gl: Any, context: Any) -> None:
    gl.make_current()
    context.free()
    gl.free()
