# SPDX-License-Identifier: Apache-2.0
"""The part of `cv_bridge` that this project uses, for machines without a ROS installation.

Image messages to numpy arrays as OpenCV has them, (H, W) or (H, W, C), and back. Reading shares
memory with the message where nothing is converted; writing fills an `array.array`, because
assigning a numpy array to a uint8[] field checks its elements one by one.
"""

import array
import re
import sys

import cv2
import numpy as np

_TYPES = {'8U': np.uint8, '8S': np.int8, '16U': np.uint16, '16S': np.int16, '32S': np.int32,
          '32F': np.float32, '64F': np.float64}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_COLORS = {'mono': 1, 'rgb': 3, 'bgr': 3, 'rgba': 4, 'bgra': 4}

class CvBridgeError(TypeError):
    """The image cannot be converted; the text says why."""

def _layout(encoding):
    """Return type, channels and the order of colours ('' for 8UC3 and the like)."""
    if (match := re.fullmatch(r'([a-z]+)(8|16)', encoding)) and match[1] in _COLORS:
        return np.dtype(_TYPES[f'{match[2]}U']), _COLORS[match[1]], match[1]
    if (match := re.fullmatch(r'(\d+[USF])C([1-9]\d*)', encoding)) and match[1] in _TYPES:
        return np.dtype(_TYPES[match[1]]), int(match[2]), ''
    raise CvBridgeError(f"encoding '{encoding}' is not supported without a ROS 2 installation")

def _convert(image, have, want):
    if want in ('passthrough', have):
        return image
    (have_type, have_channels, source), (want_type, want_channels, target) = map(
        _layout, (have, want))
    if have_type != want_type:
        raise CvBridgeError(f'[{have}] to [{want}]: changing the depth of an image is not '
                            'supported without a ROS 2 installation')
    if source and target:
        code = f'COLOR_{source.upper()}2{target.upper()}'.replace('MONO', 'GRAY')
        return cv2.cvtColor(image, getattr(cv2, code))
    if target:
        raise CvBridgeError(
            f'[{have}] is not a color format, but [{want}] is. The conversion does not make sense')
    if have_channels != want_channels:
        raise CvBridgeError(f'[{have}] and [{want}] do not have the same number of channels')
    return image

def _bytes(image):
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(image).reshape(-1).view(np.uint8))
    return data

class CvBridge:
    def imgmsg_to_cv2(self, img_msg, desired_encoding='passthrough'):
        kind, channels, _ = _layout(img_msg.encoding)
        height, width, row = img_msg.height, img_msg.width, img_msg.width * channels * kind.itemsize
        if img_msg.step < row or len(img_msg.data) < height * img_msg.step:
            raise CvBridgeError(
                f'{width}x{height} {img_msg.encoding} needs a step of {row} bytes and {height} '
                f'steps of data; step is {img_msg.step}, data has {len(img_msg.data)} bytes')
        data = np.frombuffer(img_msg.data, np.uint8, height * img_msg.step)
        data = np.ascontiguousarray(data.reshape(height, img_msg.step)[:, :row])
        image = data.view(kind).reshape((height, width, channels)[: 2 + (channels > 1)])
        if bool(img_msg.is_bigendian) != (sys.byteorder == 'big') and kind.itemsize > 1:
            image = image.byteswap()
        return _convert(image, img_msg.encoding, desired_encoding)

    def cv2_to_imgmsg(self, cvim, encoding='passthrough', header=None):
        from sensor_msgs.msg import Image
        if not isinstance(cvim, np.ndarray) or cvim.ndim not in (2, 3):
            raise TypeError('Your input type is not a numpy array of two or three dimensions')
        native = cvim.dtype.newbyteorder('=')
        if native not in _NAMES:
            raise CvBridgeError(f'an image of {cvim.dtype} has no encoding')
        channels = 1 if cvim.ndim == 2 else cvim.shape[2]
        own = f'{_NAMES[native]}C{channels}'
        encoding = own if encoding == 'passthrough' else encoding
        if _layout(encoding)[:2] != (native, channels):
            raise CvBridgeError(
                f'encoding specified as {encoding}, but image has incompatible type {own}')
        message = Image(height=cvim.shape[0], width=cvim.shape[1], encoding=encoding)
        message.step = cvim.shape[1] * channels * native.itemsize
        message.is_bigendian = int((sys.byteorder == 'big') == (native == cvim.dtype))
        message.data = _bytes(cvim)
        message.header = message.header if header is None else header
        return message

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg, desired_encoding='passthrough'):
        data = np.frombuffer(cmprs_img_msg.data, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
        if image is None:
            raise CvBridgeError(f"compressed image of format '{cmprs_img_msg.format}' with "
                                f'{data.size} bytes cannot be decoded')
        colors = {1: 'mono', 3: 'bgr', 4: 'bgra'}[1 if image.ndim == 2 else image.shape[2]]
        return _convert(image, f'{colors}{image.itemsize * 8}', desired_encoding)

    def cv2_to_compressed_imgmsg(self, cvim, dst_format='jpg'):
        from sensor_msgs.msg import CompressedImage
        try:
            done, data = cv2.imencode(f'.{dst_format}', cvim)
        except cv2.error as error:
            raise CvBridgeError(f"cannot compress to '{dst_format}': {error}") from None
        if not done:
            raise CvBridgeError(f"cannot compress to '{dst_format}'")
        return CompressedImage(format=dst_format, data=_bytes(data))
