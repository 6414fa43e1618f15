"""Makes an unmodified PyTorch program believe in a CUDA device whose operators run elsewhere."""

from offload_ros.rrto.shim.device import Device as Device
from offload_ros.rrto.shim.device import DeviceProperties as DeviceProperties
from offload_ros.rrto.shim.guard import GuardError as GuardError
from offload_ros.rrto.shim.install import install as install
from offload_ros.rrto.shim.install import uninstall as uninstall
from offload_ros.rrto.shim.tensor import RemoteTensor as RemoteTensor
