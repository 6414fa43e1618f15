"""Models: their description in models.yaml, where they come from, what is around the network."""

import os

# A few bytes of a compressed image can claim gigabytes of pixels; OpenCV reads its limit when it is
# first imported. 64 million pixels is above every camera.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(1 << 26))
