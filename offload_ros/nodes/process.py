"""What every node process does around its node: start, one clear line on a mistake, clean end."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import get_rmw_implementation_identifier

from offload_ros.network.half_made_ports import remove_half_made_ports
from offload_ros.network.start_up import start_up_warnings
from offload_ros.nodes.managed import ManagedNode
from offload_ros.nodes.parameters import value_of

SWITCH_INTERVAL_S = 1e-4
MIDDLEWARE_END_S = 5.0
PARAMETER_MISTAKES: tuple[type[Exception], ...] = (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def run_node(make: Callable[[], Node], mistakes: tuple[type[Exception], ...]) -> None:
    """Run the node that ``make`` returns until Ctrl-C or SIGTERM.

    Exit status 0, or 1 with one line on stderr when ``make`` raises one of ``mistakes`` or refuses
    a parameter: errors of whoever starts the node, whose text says what to do.
    """
    keep_freed_memory()
    # Callbacks hand frames to worker threads; at the default of 5 ms the interpreter switches late.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stopped = threading.Event()
    node: Node | None = None
    status = 0
    log = logging.getLogger('offload_ros')
    handler: logging.Handler = logging.NullHandler()
    remove_half_made_ports()
    # With rclpy's own handlers the context would be gone before the frames in hand are answered.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = make()
        handler = _NodeLog(node)
        log.addHandler(handler)
        if isinstance(node, ManagedNode):
            for line in start_up_warnings(get_rmw_implementation_identifier()):
                node.get_logger().warning(line)
            if value_of(node, 'autostart'):
                node.bring_up()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopped.set())
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok() and not stopped.is_set():
            executor.spin_once(timeout_sec=0.1)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (*mistakes, *PARAMETER_MISTAKES) as error:
        print(f'error: {error}', file=sys.stderr)
        status = 1
    finally:
        log.removeHandler(handler)
        if node is not None:
            if hasattr(node, 'close'):
                node.close()
            # Over TCP, Fast DDS 3.2 may wait for ever for a peer's last word, and keeps the
            # interpreter meanwhile: what ends us then must not need it.
            nowhere = open(os.devnull, 'w')  # noqa: SIM115 (as long as the process)
            faulthandler.dump_traceback_later(MIDDLEWARE_END_S, exit=True, file=nowhere)
            node.destroy_node()
        rclpy.try_shutdown()
    sys.exit(status)


_KEPT: list[Node] = []


def keep(node: Node) -> Node:
    """``node``, which is not destroyed when nobody has it any more: for who ends by ``leave``, and
    does not shut its context down, which destroys nodes."""
    _KEPT.append(node)
    return node


def leave(status: int | str | None) -> NoReturn:
    """End this process, whose work is done, as ``sys.exit`` does but with the middleware as it is:
    to take it down may never end (see ``run_node``). Peers see that it is gone."""
    if isinstance(status, str):
        print(status, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    code = status if isinstance(status, int) else int(status is not None)
    os._exit(code & 0xFF)


class _NodeLog(logging.Handler):
    """Warnings and errors of the code that knows nothing of ROS, as the node's own."""

    def __init__(self, node: Node) -> None:
        super().__init__(logging.WARNING)
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # Each severity has its own line: rclpy refuses another one at the same place.
        if record.levelno >= logging.ERROR:
            self._logger.error(self.format(record))
        else:
            self._logger.warning(self.format(record))


def keep_freed_memory() -> None:
    """Let malloc keep freed memory: fresh pages for each image cost more than sending it does.

    Measured: 2 to 4 times the throughput of large messages on one host. Does nothing where libc is
    not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(M_TOP_PAD, 64 << 20)


def give_back_freed_memory() -> None:
    """Let the system have what malloc keeps, in all threads: after something large has ended.

    Does nothing where libc is not glibc.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
