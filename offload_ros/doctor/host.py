"""Checks of the operating system: buffers, shared memory, memory, processor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path
import shutil

from offload_ros.doctor.finding import Finding, fail, ok, skip, warn

LEAST_BUFFER_BYTES = 4_000_000
WANTED_BUFFER_BYTES = 4_194_304
LEAST_SHM_MB = 256.0  # three processes with the 64 MB segments of config/dds/fastdds.xml
STALE_SHARE, MUCH_STALE_MB = 0.25, 2000.0  # it is memory that no program gets
LEAST_MEMORY_MB, LITTLE_MEMORY_MB = 200.0, 1000.0
WANTED_IPFRAG_BYTES = 134_217_728


@dataclass(frozen=True)
class SharedMemory:
    """/dev/shm in megabytes; ``stale_mb``: segments of Fast DDS whose process is gone."""

    size_mb: float
    free_mb: float
    stale_mb: float = 0.0
    stale_files: int = 0


def check_host(far_server: bool = False, standalone: bool = False) -> list[Finding]:
    """Every check of this machine. ``far_server``: one on another machine is in use."""
    net = Path('/proc/sys/net')
    return [
        check_buffers(number(net / 'core/rmem_max'), number(net / 'core/wmem_max')),
        check_fragments(
            number(net / 'ipv4/ipfrag_time'), number(net / 'ipv4/ipfrag_high_thresh'), far_server
        ),
        check_shared_memory(shared_memory(), standalone),
        check_memory(available_memory_mb()),
        check_processor(governors(), os.getloadavg()[0], os.cpu_count() or 1),
    ]


def number(file: Path) -> int | None:
    """The number in a file of /proc or /sys, None where it cannot be read."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def check_buffers(receive: int | None, send: int | None) -> Finding:
    """Socket buffers (bytes): an image is many datagrams at once."""
    name = 'socket buffers'
    if receive is None or send is None:
        return skip(name, 'not readable here (a container?): look at net.core.rmem_max on the host')
    text = f'net.core.rmem_max {receive / 1e6:.1f} MB, wmem_max {send / 1e6:.1f} MB'
    small = [
        f'net.core.{key}={WANTED_BUFFER_BYTES}'
        for key, value in (('rmem_max', receive), ('wmem_max', send))
        if value < LEAST_BUFFER_BYTES
    ]
    if small:
        return warn(
            name,
            f'{text}: large images lose datagrams between machines',
            f'sudo sysctl -w {" ".join(small)}',
        )
    return ok(name, text)


def check_fragments(time_s: int | None, high_bytes: int | None, far_server: bool) -> Finding:
    """Reassembly of IP fragments: after a loss its memory fills, then nothing gets through."""
    name = 'ip fragments'
    if time_s is None or high_bytes is None:
        return skip(name, 'net.ipv4.ipfrag_time is not readable here')
    text = f'ipfrag_time {time_s} s, ipfrag_high_thresh {high_bytes / 1e6:.0f} MB'
    remedy = (
        f'sudo sysctl -w net.ipv4.ipfrag_time=3 net.ipv4.ipfrag_high_thresh={WANTED_IPFRAG_BYTES}'
    )
    if time_s <= 3 or high_bytes >= WANTED_IPFRAG_BYTES:
        return ok(name, text)
    if far_server:
        return warn(name, f'{text}: a lossy link can block large images for seconds', remedy)
    return ok(name, f'{text} (matters on lossy links to other machines only)')


def check_shared_memory(seen: SharedMemory | None, standalone: bool = False) -> Finding:
    """/dev/shm carries images between processes of one machine."""
    name = 'shared memory'
    if seen is None:
        return skip(name, '/dev/shm is not there: images go by UDP')
    text = f'/dev/shm: {seen.free_mb:.0f} of {seen.size_mb:.0f} MB free'
    clean = 'fastdds shm clean'
    if standalone:  # where that command does not run
        clean = 'stop every ROS process, then rm -f /dev/shm/*fastdds* /dev/shm/*fastrtps*'
    stale = f'{seen.stale_mb:.0f} MB in {seen.stale_files} files of processes that are gone'
    if seen.stale_mb > min(STALE_SHARE * seen.size_mb, MUCH_STALE_MB):
        return warn(name, f'{text}; {stale}', clean)
    if seen.free_mb < LEAST_SHM_MB:
        return warn(
            name,
            f'{text}: too little for images (a process takes 70 MB)',
            'docker run --shm-size 1g (or --ipc host); sudo mount -o remount,size=1G /dev/shm; '
            f'{clean}',
        )
    return ok(name, f'{text}{f" ({stale})" if seen.stale_files else ""}')


def shared_memory(
    folder: Path = Path('/dev/shm'), locks: Path = Path('/proc/locks')
) -> SharedMemory | None:
    """Sizes of /dev/shm, and what Fast DDS left there."""
    try:
        usage = shutil.disk_usage(folder)
        held = {line.split()[5].rpartition(':')[2] for line in locks.read_text().splitlines()}
    except (OSError, IndexError):
        return None
    stale = list(_stale_segments(folder, held))
    return SharedMemory(usage.total / 1e6, usage.free / 1e6, sum(stale) / 1e6, len(stale))


def _stale_segments(folder: Path, held: set[str]) -> Iterable[int]:
    """Sizes of segments whose lock file (``<segment>_el``) nobody holds; ``held``: its inode."""
    for lock in folder.glob('fast*_el'):
        segment = lock.with_name(lock.name.removesuffix('_el'))
        try:
            if '_port' not in lock.name and str(lock.stat().st_ino) not in held:
                yield segment.stat().st_size
        except OSError:  # just removed
            continue


def available_memory_mb(file: Path = Path('/proc/meminfo')) -> float | None:
    """Memory that programs can still get."""
    try:
        for line in file.read_text().splitlines():
            if line.startswith('MemAvailable:'):
                return int(line.split()[1]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        pass
    return None


def check_memory(available_mb: float | None) -> Finding:
    """Without memory models do not load, and nodes are killed."""
    name = 'memory'
    if available_mb is None:
        return skip(name, '/proc/meminfo is not readable here')
    text = f'{available_mb / 1000:.1f} GB available'
    if available_mb < LEAST_MEMORY_MB:
        return fail(name, f'{text}: nodes are killed or do not start', 'end other programs (top)')
    if available_mb < LITTLE_MEMORY_MB:
        return warn(name, f'{text}: little for PyTorch and a model', 'end other programs (top)')
    return ok(name, text)


def governors(folder: Path = Path('/sys/devices/system/cpu')) -> list[str]:
    """Names of the frequency governors in use."""
    names = set()
    for file in folder.glob('cpu[0-9]*/cpufreq/scaling_governor'):
        try:
            names.add(file.read_text().strip())
        except OSError:
            continue
    return sorted(names)


def check_processor(used: list[str], load: float, cores: int) -> Finding:
    """Load (average of a minute) and frequency governor."""
    name, governor = 'processor', ', '.join(used) or 'not readable here'
    text = f'load {load:.1f} on {cores} cores, governor {governor}'
    if load > 2 * cores:
        return warn(
            name,
            f'{text}: too busy, deadlines are missed',
            'top; threads:=1 for manager and server; lower the rate of the sensors',
        )
    if 'powersave' in used:
        return warn(
            name,
            f'{text}: slow when a frame comes',
            'sudo cpupower frequency-set -g performance',
        )
    return ok(name, text)
