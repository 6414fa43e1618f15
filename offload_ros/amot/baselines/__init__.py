"""What A-MOT is compared with: other ways to classify images with few bytes (``METHODS``).

Each is as good as it can be made without training a network for it: whatever it leaves open is
chosen on the calibration split for each number of bytes (``tuned``). All have the same classifier
and the same count of bytes (``evaluate.Wire``).
"""

from offload_ros.amot.baselines.coded import CodedAmot, CodedImage, CodedRegions
from offload_ros.amot.baselines.common import (
    Answers,
    Baseline,
    Networks,
    classify,
    load_networks,
    tuned,
)
from offload_ros.amot.baselines.holes import DetectorFilter, NoReconstruction
from offload_ros.amot.baselines.resized import LowThenRegions, Raw, Upsampled
from offload_ros.amot.baselines.split import SplitNetwork

__all__ = [
    'Answers',
    'Baseline',
    'CodedAmot',
    'CodedImage',
    'CodedRegions',
    'DetectorFilter',
    'LowThenRegions',
    'Networks',
    'NoReconstruction',
    'Raw',
    'SplitNetwork',
    'Upsampled',
    'classify',
    'load_networks',
    'tuned',
]
