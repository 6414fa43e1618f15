"""The Python package without ROS (``pip install .``), and the one list of Python dependencies."""

from setuptools import find_packages, setup

REQUIRES = [
    'cryptography>=3.4',
    'lz4>=3.1',
    'matplotlib>=3.5',
    'msgpack>=1.0',
    'networkx>=2.6',
    'numpy>=1.21',
    'opencv-python-headless>=4.5',
    'PyYAML>=5.4',
    'rich>=12',
    'safetensors>=0.4',
    'scipy>=1.8',
    'torch>=2.3',
    'transformers>=4.40',
    'zstandard>=0.22',
]
EXTRAS = {
    'ray': ['ray>=2.52'],  # replicas of a server's models (doc/server.md)
    'sim': ['mujoco>=3.2'],
    'test': [
        'hypothesis>=6.80',
        'mypy>=1.8',
        'psutil>=5.9',
        'pytest>=7',
        'ruff>=0.6',
        'types-PyYAML',
    ],
}

setup(
    name='offload_ros',
    version='0.1.0',
    description='Neural networks too heavy for the robot, shared with a server over DDS',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['offload_ros', 'offload_ros.*']),
    package_data={'offload_ros': ['py.typed']},
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
