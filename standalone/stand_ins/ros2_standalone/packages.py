# SPDX-License-Identifier: Apache-2.0
"""What needs no ROS graph: ros2 launch, run, pkg prefix, interface show."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchService
from launch._process import die_with_parent
from launch.actions import IncludeLaunchDescription, declared_arguments
from launch.launch_description_sources import PythonLaunchDescriptionSource

_BASIC = re.compile(r'(bool|byte|char|w?string|u?int(8|16|32|64)|float(32|64))\b')

def find(package, share=False):
    """Return the prefix or the share folder of a package."""
    try:
        return (get_package_share_directory if share else get_package_prefix)(package)
    except (LookupError, ValueError):
        raise RuntimeError(f"Package '{package}' not found") from None

def prefix(args):
    try:
        print(find(args.package_name, args.share))
    except RuntimeError:
        return 'Package not found'

def run(args):
    path = os.path.join(find(args.package_name), 'lib', args.package_name, args.executable_name)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        return 'No executable found'
    process = subprocess.Popen([path, *args.argv], preexec_fn=die_with_parent)  # noqa: PLW1509
    # A terminal sends Ctrl-C to both; SIGTERM comes to this process alone and is passed on.
    signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
    if code := process.returncode:
        print('[ros2run]:', signal.strsignal(-code) if -code in signal.valid_signals()
              else f'Process exited with failure {code}')
    return process.returncode

def launch(args):
    words = [args.launch_file_name, *args.launch_arguments]
    if os.path.isfile(args.package_name):
        path = args.package_name
    else:
        share, name = find(args.package_name, share=True), words.pop(0)
        found = [str(path) for path in pathlib.Path(share).rglob(str(name)) if path.is_file()]
        if len(found) != 1:
            what = f'was found more than once ({found})' if found else 'was not found'
            return (f"file '{name}' {what} in the share directory of package "
                    f"'{args.package_name}' which is at '{share}'")
        path = found[0]
    source = PythonLaunchDescriptionSource(path)
    if args.show_args:
        return _show_arguments(source.get_launch_description(LaunchContext()))
    given = {}
    for word in filter(None, words):
        name, _, value = word.partition(':=')
        if not name or not value:
            return f"malformed launch argument '{word}', expected format '<name>:=<value>'"
        given[name] = value
    service = LaunchService(debug=args.debug)
    service.include_launch_description(
        LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given.items())]))
    return service.run()

def _show_arguments(description):
    print("Arguments (pass arguments as '<name>:=<value>'):")
    shown = {}
    for argument, conditional in declared_arguments(description):
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

def show(args):
    for line in _lines(args.type, True):
        print(line)

def _lines(name, comments, indent=''):
    """Yield the lines of an interface file, those of nested types after each field."""
    package, _, rest = name.partition('/')
    if rest.count('/') != 1:
        raise RuntimeError(f"Invalid name '{name}'. Expected three parts separated by '/'")
    path = pathlib.Path(find(package, share=True), rest)
    path = path.with_suffix(f'.{path.parent.name}')
    if not path.is_file():
        raise RuntimeError(f"Could not find the interface '{path}'")
    for line in path.read_text().splitlines():
        line = line.rstrip() if comments else re.sub(r'\s*#.*', '', line).strip()
        if line or comments:
            yield indent + line if line else ''
        if not _BASIC.match(line) and (match := re.match(r'(\w+)(/\w+)?(\[[^]]*\])? +\w', line)):
            inner = f'{match[1]}/msg{match[2]}' if match[2] else f'{package}/msg/{match[1]}'
            yield from _lines(inner, False, indent + '\t')

LAUNCH = (launch, '-n,--noninteractive -d,--debug -s,--show-args,--show-arguments package_name '
          'launch_file_name? launch_arguments*')
RUN = (run, 'package_name executable_name argv...')
PKG = {'prefix': (prefix, '--share package_name')}
INTERFACE = {'show': (show, 'type')}
