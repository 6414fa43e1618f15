"""Run neural networks that are too heavy for the robot together with a server, over DDS."""

from pkgutil import extend_path

# In a checkout the source folder comes first on the path, but the generated messages live in the
# build: both are one package.
__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'
