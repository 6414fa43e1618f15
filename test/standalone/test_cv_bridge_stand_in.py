# SPDX-License-Identifier: Apache-2.0
"""Images and messages through the stand-in of cv_bridge."""

import array
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

cv_bridge = pytest.importorskip('cv_bridge')
messages = pytest.importorskip('sensor_msgs.msg')

ENCODINGS = {
    'mono8': ('u1', 1), 'rgb8': ('u1', 3), 'bgr8': ('u1', 3), 'rgba8': ('u1', 4),
    'bgra8': ('u1', 4), '8UC1': ('u1', 1), '8UC2': ('u1', 2), '8UC3': ('u1', 3),
    '8UC4': ('u1', 4), '8SC1': ('i1', 1), 'mono16': ('u2', 1), '16UC1': ('u2', 1),
    '16SC2': ('i2', 2), '32SC1': ('i4', 1), '32FC1': ('f4', 1), '32FC3': ('f4', 3),
    '64FC1': ('f8', 1), '64FC3': ('f8', 3),
}  # fmt: skip
COLORS = ['mono8', 'rgb8', 'bgr8', 'rgba8', 'bgra8']


def random_image(encoding, height, width, seed):
    kind, channels = ENCODINGS[encoding]
    size = height * width * channels * np.dtype(kind).itemsize
    values = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).view(kind)
    return values.reshape((height, width) if channels == 1 else (height, width, channels))


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 5),
    big=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_an_image_survives_the_way_through_a_message(encoding, height, width, padding, big, seed):
    image = random_image(encoding, height, width, seed)
    sent = image.astype(image.dtype.newbyteorder('>' if big else '<'))
    bridge = cv_bridge.CvBridge()
    message = bridge.cv2_to_imgmsg(sent, encoding)
    assert (message.height, message.width, message.encoding) == (height, width, encoding)
    assert message.step == len(message.data) // height
    assert bool(message.is_bigendian) == (big and image.itemsize > 1)
    if padding:  # rows longer than the image: their ends must not be read
        rows = np.frombuffer(message.data, np.uint8).reshape(height, -1)
        noise = np.full((height, padding), 171, np.uint8)
        message.step += padding
        message.data = array.array('B', np.hstack([rows, noise]).tobytes())
    got = bridge.imgmsg_to_cv2(message, encoding)
    assert got.dtype == image.dtype and got.dtype.isnative and got.shape == image.shape
    assert got.tobytes() == image.tobytes()
    assert bridge.imgmsg_to_cv2(message).tobytes() == image.tobytes()


@given(
    have=st.sampled_from(COLORS),
    want=st.sampled_from(COLORS),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_colors_are_reordered_and_gray_is_weighted(have, want, size, seed):
    image = random_image(have, *size, seed)
    bridge = cv_bridge.CvBridge()
    got = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, have), want)

    def channels(pixels, encoding):
        if encoding == 'mono8':
            return dict.fromkeys('rgb', pixels.astype(float))
        return {c: pixels[..., i].astype(float) for i, c in enumerate(encoding.rstrip('8'))}

    before, after = channels(image, have), channels(got, want)
    if want == 'mono8' and have != 'mono8':
        gray = 0.299 * before['r'] + 0.587 * before['g'] + 0.114 * before['b']
        assert np.abs(after['r'] - gray).max() <= 1.0
        return
    for color in after.keys() & before.keys():
        assert np.array_equal(after[color], before[color])
    if 'a' in after.keys() - before.keys():
        assert (after['a'] == 255).all()


def test_reading_shares_the_message_memory_where_nothing_is_converted():
    bridge = cv_bridge.CvBridge()
    message = bridge.cv2_to_imgmsg(np.zeros((4, 5, 3), np.uint8), 'bgr8')
    image = bridge.imgmsg_to_cv2(message, 'bgr8')
    message.data[0] = 77
    assert image[0, 0, 0] == 77


def test_writing_12_mb_does_not_check_every_byte():
    image = np.zeros((2000, 2000, 3), np.uint8)
    bridge = cv_bridge.CvBridge()
    took_s = []
    for _ in range(5):
        start_s = time.process_time()
        message = bridge.cv2_to_imgmsg(image[:, ::2], 'bgr8')
        took_s.append(time.process_time() - start_s)
    assert min(took_s) < 0.2  # 0.25 s for 6 MB with a numpy array assigned
    assert isinstance(message.data, array.array) and len(message.data) == 6_000_000


@pytest.mark.parametrize(
    ('have', 'want', 'text'),
    [
        ('16UC1', 'mono16', 'is not a color format'),
        ('mono16', 'mono8', 'changing the depth'),
        ('8UC3', 'bgr8', 'is not a color format'),
        ('8UC2', '8UC3', 'same number of channels'),
        ('mono8', 'yuv422', "'yuv422' is not supported"),
    ],
)
def test_conversions_that_make_no_sense_are_refused_with_the_reason(have, want, text):
    bridge = cv_bridge.CvBridge()
    message = bridge.cv2_to_imgmsg(random_image(have, 2, 2, 0), have)
    with pytest.raises(cv_bridge.CvBridgeError, match=text):
        bridge.imgmsg_to_cv2(message, want)


def test_wrong_images_and_messages_are_refused():
    bridge = cv_bridge.CvBridge()
    with pytest.raises(cv_bridge.CvBridgeError, match='incompatible type 8UC1'):
        bridge.cv2_to_imgmsg(np.zeros((2, 2), np.uint8), 'bgr8')
    with pytest.raises(cv_bridge.CvBridgeError, match='has no encoding'):
        bridge.cv2_to_imgmsg(np.zeros((2, 2), np.int64))
    with pytest.raises(TypeError, match='not a numpy array'):
        bridge.cv2_to_imgmsg([[0]])
    short = messages.Image(height=2, width=2, step=2, encoding='mono8', data=array.array('B', b'1'))
    with pytest.raises(cv_bridge.CvBridgeError, match='data has 1 bytes'):
        bridge.imgmsg_to_cv2(short)


@pytest.mark.parametrize('form', ['png', 'bmp', 'jpg'])
def test_compressed_images_come_back(form):
    bridge = cv_bridge.CvBridge()
    ramp = np.add.outer(np.arange(32), np.arange(40)).astype(np.uint8) * 3
    image = np.dstack([ramp, ramp, ramp])
    message = bridge.cv2_to_compressed_imgmsg(image, form)
    assert message.format == form and isinstance(message.data, array.array)
    got = bridge.compressed_imgmsg_to_cv2(message, 'rgb8')
    assert got.shape == image.shape
    assert np.abs(got.astype(int) - image).max() <= (8 if form == 'jpg' else 0)
    with pytest.raises(cv_bridge.CvBridgeError, match='cannot be decoded'):
        bridge.compressed_imgmsg_to_cv2(messages.CompressedImage(format='png'))
    with pytest.raises(cv_bridge.CvBridgeError, match='cannot compress'):
        bridge.cv2_to_compressed_imgmsg(image, 'nothing')


def test_big_endian_flag_is_the_flag_of_the_data():
    message = cv_bridge.CvBridge().cv2_to_imgmsg(np.array([[258]], '>u2'))
    assert message.is_bigendian == 1 and list(message.data) == [1, 2]
