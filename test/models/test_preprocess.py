"""An image becomes what the network takes, equal to a plain reference computation."""

import struct
import zlib

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
from torch.nn import functional

from offload_ros.models.config import Preprocess
from offload_ros.models.errors import InputError
from offload_ros.models.preprocess import ImagePreprocess, decode_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(height, width, channels=3, seed=0):
    """Return a random (H, W, C) uint8 image."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_values_equal_the_numpy_formula_on_every_size(height, width, seed):
    image = picture(height, width, seed=seed)
    got = ImagePreprocess(Preprocess(mean=MEAN, std=STD))(torch.from_numpy(image))
    want = (image.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    assert got.shape == (1, 3, height, width)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[0].permute(1, 2, 0).numpy(), want, atol=1e-5)


@pytest.mark.parametrize('size', [(37, 53), (7, 5), (224, 224), (1, 1), (480, 3)])
def test_resized_image_equals_torch(size):
    image = torch.from_numpy(picture(37, 53))
    got = ImagePreprocess(Preprocess(resize=size, mean=MEAN, std=STD))(image)
    planes = image.permute(2, 0, 1)[None].float()
    resized = functional.interpolate(
        planes, size=size, mode='bilinear', align_corners=False, antialias=True
    )
    want = (resized / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert got.shape == (1, 3, *size)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_image_shrunk_by_whole_numbers_keeps_its_mean():
    # Without antialiasing most pixels would be skipped.
    image = torch.zeros(64, 64, 1, dtype=torch.uint8)
    image[::4, ::4] = 160
    small = ImagePreprocess(Preprocess(resize=(8, 8), scale=1.0))(image)
    assert small.mean() == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(
    ('height', 'width', 'top', 'left', 'inner'),
    [
        (100, 200, 16, 0, (32, 64)),
        (200, 100, 0, 16, (64, 32)),
        (100, 100, 0, 0, (64, 64)),
        (33, 64, 15, 0, (33, 64)),
        (10, 1000, 31, 0, (1, 64)),
        (1, 1000, 31, 0, (1, 64)),
        (16, 8, 0, 16, (64, 32)),
    ],
)
def test_letterbox_keeps_the_aspect_ratio_and_fills_the_rest(height, width, top, left, inner):
    spec = Preprocess(resize=(64, 64), letterbox=True, fill=114.0, scale=1.0)
    got = ImagePreprocess(spec)(torch.full((height, width, 3), 200, dtype=torch.uint8))[0]
    assert got.shape == (3, 64, 64)
    want = torch.full((3, 64, 64), 114.0)
    want[:, top : top + inner[0], left : left + inner[1]] = 200.0
    torch.testing.assert_close(got, want)


def test_letterbox_of_the_right_size_changes_nothing():
    image = torch.from_numpy(picture(48, 64))
    spec = Preprocess(resize=(48, 64), letterbox=True, scale=1.0)
    assert torch.equal(ImagePreprocess(spec)(image), image.permute(2, 0, 1)[None].to(torch.float32))


@pytest.mark.parametrize('shape', [(5, 7), (5, 7, 1)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.uint16, torch.float32], ids=str)
def test_mono_and_depth_images_have_one_channel(shape, dtype):
    image = torch.arange(35).reshape(shape).to(dtype)
    got = ImagePreprocess(Preprocess(scale=2.0, mean=(1.0,), std=(4.0,)))(image)
    assert got.shape == (1, 1, 5, 7)
    torch.testing.assert_close(got.reshape(-1), (torch.arange(35.0) * 2 - 1) / 4)


def test_one_mean_serves_any_number_of_channels():
    got = ImagePreprocess(Preprocess(mean=(1.0,), std=(2.0,)))(torch.zeros(2, 2, 3))
    assert torch.equal(got, torch.full((1, 3, 2, 2), -0.5))


def test_image_that_is_a_view_gives_the_same_values():
    image = torch.from_numpy(picture(20, 30))
    flipped = image.flip(1).transpose(0, 1)
    network = ImagePreprocess(Preprocess(resize=(8, 8)))
    assert torch.equal(network(flipped), network(flipped.contiguous()))


def test_png_bytes_decode_to_the_very_pixels():
    image = picture(13, 9)
    data = torch.from_numpy(cv2.imencode('.png', image[:, :, ::-1])[1].reshape(-1))
    assert torch.equal(decode_image(data), torch.from_numpy(image))
    network = ImagePreprocess(Preprocess(mean=MEAN, std=STD))
    assert torch.equal(network(data), network(torch.from_numpy(image)))


def test_jpeg_bytes_decode_to_rgb():
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[:] = (200, 100, 20)
    data = torch.from_numpy(cv2.imencode('.jpg', image[:, :, ::-1])[1].reshape(-1))
    decoded = decode_image(data)
    assert decoded.dtype == torch.uint8
    torch.testing.assert_close(decoded, torch.from_numpy(image), atol=4, rtol=0)


def test_grey_and_16_bit_png_become_rgb():
    grey = cv2.imencode('.png', np.full((4, 5), 77, dtype=np.uint8))[1].reshape(-1)
    assert torch.equal(decode_image(torch.from_numpy(grey)), torch.full((4, 5, 3), 77).byte())
    deep = cv2.imencode('.png', np.full((4, 5), 0x4D00, dtype=np.uint16))[1].reshape(-1)
    assert decode_image(torch.from_numpy(deep)).shape == (4, 5, 3)


def png_of_size(height, width):
    """Return a PNG of a few bytes that announces any size."""
    header = struct.pack('>II5B', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        (torch.zeros(0, dtype=torch.uint8), r'compressed image \(0 bytes\) cannot be decoded'),
        (torch.zeros(9, dtype=torch.uint8), r'compressed image \(9 bytes\) cannot be decoded'),
        (
            torch.frombuffer(bytearray(png_of_size(1_000_000, 1_000_000)), dtype=torch.uint8),
            r'compressed image \(\d+ bytes\) cannot be decoded',
        ),
        (torch.zeros(9), 'compressed images are bytes, not torch.float32'),
    ],
    ids=['empty', 'no image', 'absurd size', 'no bytes'],
)
def test_bytes_that_are_no_image_are_refused(data, text):
    with pytest.raises(InputError, match=text):
        ImagePreprocess(Preprocess())(data)


@pytest.mark.parametrize(
    ('image', 'text'),
    [
        (torch.zeros(1, 2, 3, 3), r'\(height, width, channels\) is wanted, not \(1, 2, 3, 3\)'),
        (torch.zeros(0, 4, 3), r'is wanted, not \(0, 4, 3\)'),
        (torch.tensor(1.0), r'is wanted, not \(\)'),
        (torch.zeros(4, 4, 4), 'the image has 4 channels, preprocess.mean has 3'),
        (torch.zeros(4, 4), 'the image has 1 channels, preprocess.mean has 3'),
    ],
)
def test_tensor_that_is_no_such_image_is_refused(image, text):
    with pytest.raises(InputError, match=text):
        ImagePreprocess(Preprocess(mean=MEAN, std=STD))(image)
