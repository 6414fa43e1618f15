# SPDX-License-Identifier: Apache-2.0
"""Where packages are."""

from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch._unsupported import explain
from launch.substitution import Substitution, SubstitutionFailure, normalize, perform

__getattr__ = explain(__name__)


class FindPackageShare(Substitution):
    """The share folder of a package."""

    def __init__(self, package: Any) -> None:
        self.package = normalize(package)

    def perform(self, context: Any) -> str:
        try:
            return get_package_share_directory(perform(context, self.package))
        except LookupError as error:
            raise SubstitutionFailure(error.args[0]) from None

    def describe(self) -> str:
        return f'FindPackageShare(pkg={" + ".join(p.describe() for p in self.package)})'


FindPackage = FindPackageShare
