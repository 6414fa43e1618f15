"""The objects of the simulated world; importing this package registers every kind."""

from offload_ros.sim.objects import appliances, furniture, household, outdoors
from offload_ros.sim.objects.registry import KINDS, PLACES, Kind, size_of

__all__ = [
    'KINDS',
    'PLACES',
    'Kind',
    'appliances',
    'furniture',
    'household',
    'outdoors',
    'size_of',
]
