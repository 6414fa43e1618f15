# Source me (bash or zsh): a shell in which ROS 2, this package and its tests work.
#
# With a ROS 2 installation sourced before, that one is used and only this package's own build is added.
# Without one, the environment that standalone/setup.sh made is used.

_offload_here="${BASH_SOURCE[0]:-${(%):-%x}}"
_offload_root="$(cd "$(dirname "$_offload_here")/.." && pwd)"

if [ -n "${ROS_DISTRO:-}" ] && [ "${OFFLOAD_ROS_STANDALONE:-}" != "$_offload_root" ]; then
  if [ -f "$_offload_root/install/setup.bash" ]; then
    . "$_offload_root/install/setup.bash"
  else
    echo "offload_ros: ROS $ROS_DISTRO is sourced but this package is not built: run 'make setup'" >&2
    return 1
  fi
elif [ ! -f "$_offload_root/standalone/.ws/install/local_setup.bash" ]; then
  echo "offload_ros: the standalone environment is not there yet: run 'make setup'" >&2
  return 1
else
  _offload_venv="$_offload_root/standalone/.venv"
  _offload_site="$(echo "$_offload_venv"/lib/python3.*/site-packages)"
  export OFFLOAD_ROS_STANDALONE="$_offload_root"
  export ROS_VERSION=2 ROS_DISTRO=kilted
  export VIRTUAL_ENV="$_offload_venv"
  # The wheels' own start-up hook would set these two and start every Python a second time.
  LD_LIBRARY_PATH="$_offload_venv/lib"
  for _offload_libs in "$_offload_site"/ros_*.libs; do
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$_offload_libs"
  done
  export LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  export AMENT_PREFIX_PATH="$_offload_venv" CMAKE_PREFIX_PATH="$_offload_venv"
  # The checkout last, for `python -m benchmarks.testbed`; the package itself is found where it is built.
  export PYTHONPATH="$_offload_root/standalone/stand_ins:$_offload_root"
  # In the checkout `python -m ...` would find the source folder offload_ros, which has no generated messages.
  export PYTHONSAFEPATH=1
  case ":$PATH:" in
    *":$_offload_root/standalone/bin:"*) ;;
    *) export PATH="$_offload_root/standalone/bin:$_offload_venv/bin:$PATH" ;;
  esac
  # A display-less machine renders with OSMesa; with a display MuJoCo's own choice is right.
  if [ -z "${DISPLAY:-}${MUJOCO_GL:-}" ]; then export MUJOCO_GL=osmesa; fi
  # Everything runs on this machine unless you say otherwise: no packet leaves it.
  export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
  . "$_offload_root/standalone/.ws/install/local_setup.bash"
  unset _offload_venv _offload_site _offload_libs
fi
unset _offload_here _offload_root
