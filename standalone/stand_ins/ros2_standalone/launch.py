# SPDX-License-Identifier: Apache-2.0
"""ros2 launch: a launch file by path, or by package and name."""

import os
import pathlib

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

def add_arguments(parser):
    parser.add_argument('-n', '--noninteractive', action='store_true', help='No terminal')
    parser.add_argument('-d', '--debug', action='store_true', help='Show tracebacks')
    parser.add_argument('-s', '--show-args', '--show-arguments', action='store_true',
                        help='Show the arguments of the launch file')
    parser.add_argument('-a', '--show-all-subprocesses-output', action='store_true',
                        help='Show the output of every process')
    parser.add_argument('package_name', help='Name of the package with the launch file, or a path')
    parser.add_argument('launch_file_name', nargs='?', help='Name of the launch file')
    parser.add_argument('launch_arguments', nargs='*', help="Arguments: '<name>:=<value>'")

def main(args):
    words = list(args.launch_arguments)
    if os.path.isfile(args.package_name):
        path = args.package_name
        words = [args.launch_file_name, *words] if args.launch_file_name else words
    else:
        path = _find(args.package_name, args.launch_file_name)
    from launch import LaunchContext, LaunchDescription, LaunchService
    from launch.actions import IncludeLaunchDescription, declared_arguments
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(path)
    if args.show_args:
        return _print(declared_arguments(source.get_launch_description(LaunchContext())))
    given = {}
    for word in words:
        name, _, value = word.partition(':=')
        if not name or not value:
            return f"malformed launch argument '{word}', expected format '<name>:=<value>'"
        given[name] = value
    if args.show_all_subprocesses_output:
        os.environ['OVERRIDE_LAUNCH_PROCESS_OUTPUT'] = 'both'
    service = LaunchService(debug=args.debug)
    service.include_launch_description(
        LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given.items())]))
    return service.run()

def _find(package, name):
    """Return the path of a launch file in a package."""
    try:
        share = get_package_share_directory(package)
    except (PackageNotFoundError, ValueError) as error:
        raise RuntimeError(f"Package '{package}' not found: {error}") from None
    found = [str(path) for path in pathlib.Path(share).rglob(str(name)) if path.is_file()]
    if len(found) != 1:
        what = f'was found more than once ({found})' if found else 'was not found'
        raise RuntimeError(f"file '{name}' {what} in the share directory of package '{package}' "
                           f"which is at '{share}'")
    return found[0]

def _print(arguments):
    print("Arguments (pass arguments as '<name>:=<value>'):")
    shown = {}
    for argument, conditional, _ in arguments:
        if argument.name not in shown:
            shown[argument.name] = conditional
            star = '*' if conditional else ''
            print(f"\n    '{argument.name}':{star}\n        {argument.description}")
            if argument.default_value is not None:
                default = ' + '.join(part.describe() for part in argument.default_value)
                print(f'        (default: {default})')
    if not shown:
        print('\n  No arguments.')
    if any(shown.values()):
        print('\n* argument(s) which are only used if specific conditions occur')
