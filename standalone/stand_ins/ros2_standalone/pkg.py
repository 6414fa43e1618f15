# SPDX-License-Identifier: Apache-2.0
"""ros2 pkg: list, prefix, executables."""

import argparse
import os
from typing import Any

from ament_index_python.packages import (
    PackageNotFoundError,
    get_package_prefix,
    get_package_share_directory,
    get_packages_with_prefixes,
)


def executable_paths(package: str) -> list[str] | None:
    """Return the executables of a package, None if there is no such package."""
    try:
        base = os.path.join(get_package_prefix(package), 'lib', package)
    except (PackageNotFoundError, ValueError):
        return None
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(base) for name in names]
    return sorted(path for path in paths if os.access(path, os.X_OK))


def _list(args: argparse.Namespace) -> None:
    for name in sorted(get_packages_with_prefixes()):
        print(name)


def _add_prefix(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('package_name', help='The package name')
    parser.add_argument('--share', action='store_true', help='Show the share directory')


def _prefix(args: argparse.Namespace) -> Any:
    find = get_package_share_directory if args.share else get_package_prefix
    try:
        print(find(args.package_name))
    except (PackageNotFoundError, ValueError):
        return 'Package not found'


def _add_executables(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('package_name', nargs='?', help='The package name')
    parser.add_argument('--full-path', action='store_true', help='Show the full path')


def _executables(args: argparse.Namespace) -> Any:
    one = args.package_name
    for package in [one] if one else sorted(get_packages_with_prefixes()):
        paths = executable_paths(package)
        if paths is None:
            return f"Unknown package '{package}'"
        for path in paths:
            print(
                path
                if args.full_path
                else os.path.basename(path)
                if one
                else f'{package} {os.path.basename(path)}'
            )


VERBS = {
    'executables': (
        'Output a list of package specific executables',
        _add_executables,
        _executables,
    ),
    'list': ('Output a list of available packages', lambda parser: None, _list),
    'prefix': ('Output the prefix path of a package', _add_prefix, _prefix),
}
