# SPDX-License-Identifier: Apache-2.0
"""One launch test: processes and active tests at the same time, then the post-shutdown tests."""

import functools
import inspect
import threading
import unittest

from launch import EventHandler, LaunchDescription, LaunchDescriptionSource, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.events.process import ProcessExited, ProcessIO, ProcessStarted

from ._records import ProcInfo, ProcOutput
from .actions import ReadyToTest

READY_WITHIN_S = 15.0

def run(module, arguments):
    """Return (test, what went wrong) of each failure in the module."""
    generate = module.generate_test_description
    found = generate()
    description, context = found if isinstance(found, tuple) else (found, {})
    ready = _find_ready(description)
    if ready is None:
        raise RuntimeError('generate_test_description returns no ReadyToTest action')
    started, completed, failures = threading.Event(), threading.Event(), []
    ready.callbacks.append(started.set)
    info, output, service = ProcInfo(), ProcOutput(), LaunchService()
    given = {**context, 'proc_info': info, 'proc_output': output, 'test_args': arguments}
    service.include_launch_description(LaunchDescription([
        _recorder((ProcessStarted, ProcessExited), info), _recorder(ProcessIO, output),
        IncludeLaunchDescription(LaunchDescriptionSource(description),
                                 launch_arguments=arguments.items())]))

    def test():
        if started.wait(READY_WITHIN_S):
            failures.extend(_run_cases(module, False, {**given, 'launch_service': service}))
        else:
            failures.append(('ReadyToTest', f'did not come within {READY_WITHIN_S:.0f} s'))
        completed.set()
        service.shutdown()

    threading.Thread(target=test, name='active tests', daemon=True).start()
    # The launch handles signals, which only the main thread can.
    keep_alive = getattr(generate, '__markers__', {}).get('keep_alive', False)
    service.run(shutdown_when_idle=not keep_alive)
    if not completed.is_set():
        ended = [f'{event.process_name} ended with {event.returncode}' for event in info
                 if isinstance(event, ProcessExited)]
        text = 'Launch stopped before the active tests finished: ' + ', '.join(ended)
        return [(module.__name__, text)]
    return failures + _run_cases(module, True, given)

def _find_ready(entity):
    if isinstance(entity, ReadyToTest):
        return entity
    return next(filter(None, map(_find_ready, entity.get_sub_entities())), None)

def _recorder(kind, records):
    return RegisterEventHandler(EventHandler(
        matcher=lambda event: isinstance(event, kind),
        entities=lambda event, context: records.append(event)))

def _run_cases(module, post_shutdown, given):
    suite = unittest.TestSuite()
    for case in vars(module).values():
        if (not isinstance(case, type) or not issubclass(case, unittest.TestCase)
                or getattr(case, '__post_shutdown_test__', False) != post_shutdown):
            continue
        case = type(case.__name__, (case,), {'__module__': case.__module__})  # may run again
        for name in ('setUpClass', 'tearDownClass'):
            setattr(case, name, _with(getattr(case, name), given))
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
            for name in ('setUp', 'tearDown', test._testMethodName):
                setattr(test, name, _with(getattr(test, name), given))
            suite.addTest(test)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return [(test.id(), text) for test, text in result.errors + result.failures] + [
        (test.id(), 'succeeded, which was not expected') for test in result.unexpectedSuccesses]

def _with(function, given):
    """Return a function with the arguments that it names."""
    names = inspect.signature(function).parameters
    return functools.partial(function, **{k: v for k, v in given.items() if k in names})
