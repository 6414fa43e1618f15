"""A recorded unit as a graph gives the bits of the unit, or it is said why there is none."""

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings
import pytest
import torch

from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import GraphError
from offload_ros.graph.wire_form import (
    graph_from_json,
    graph_to_json,
    parameters_from_bytes,
    parameters_to_bytes,
)
from offload_ros.rrto.calls import tensor_from
from offload_ros.rrto.messages import Code
from offload_ros.rrto.shim import install, uninstall
from offload_ros.rrto.unit_effects import noted
from offload_ros.rrto.unit_graph import graph_of_unit

from .families import runner
from .random_programs import ACTIONS, PROGRAMS, Instruction, program_of
from .sessions import Session, bits, image, layers

pytestmark = pytest.mark.usefixtures('settled')
OPTIONS = {
    'deadline': None,
    'database': None,
    'suppress_health_check': list(HealthCheck),
    'phases': [Phase.generate, Phase.shrink],
}
REASONS = (
    'it draws random numbers',
    'it changes tensors from before it',
    'it takes tensors over from its run before',
    'the program reads nothing of it',
    'tensors from before the unit are not on the robot',
)
outcomes = Counter()


class Watched:
    """A session whose server notes the inputs of each run of a unit, and what was read of it."""

    def __init__(self):
        self.session = Session('replay')
        self.server = self.session.server
        self.payloads, self.read, self.bases = {}, {}, {}
        run, push = self.server._actions[Code.RUN], self.server._runner._push

        def watched_run(payloads, thread, base, unit, until, sure, carried, count):
            given = [next(payloads) for _ in range(count)]
            self.payloads.setdefault(base, []).extend(given)
            self.bases.setdefault(unit, []).append(base)
            run(iter(given), thread, base, unit, until, sure, carried, count)

        def watched_push(base, step, value, failure):
            self.read.setdefault(base, {})[step] = bits_of(value)
            push(base, step, value, failure)

        self.server._actions[Code.RUN] = watched_run
        self.server._runner._push = watched_push
        install(self.session.client)

    def units(self):
        """(recorded unit, its server's side, its runs' bases) that are known now."""
        for recording in self.session.client._recordings:
            for unit in recording._units.values():
                bases = dict.fromkeys(self.bases.get(unit.number, ()))
                yield unit, self.server.unit(unit.number), list(bases)

    def inputs(self, unit, base):
        """What the program gave in a run; None: not all of it, it ended elsewhere."""
        calls = [step.call for step in unit.steps if step.call is not None]
        metas = [meta for call in calls for meta in call.template.payloads]
        given = self.payloads[base]
        if len(given) != len(metas):
            return None
        return [tensor_from(m.shape, m.dtype, each) for m, each in zip(metas, given, strict=True)]

    def tensors(self, unit):
        table = self.server.table
        return {handle: table[handle] for handle in unit.externals if handle in table}

    def close(self):
        self.session.close()
        uninstall()


def effects(unit):
    signatures = {step.signature.number: step.signature for step in unit.steps}
    return noted([Code.INSTALL, *unit.packed()], signatures)


def sent(made):
    """The graph as a server has it."""
    graph = graph_from_json(graph_to_json(made.graph))
    data = parameters_to_bytes(made.graph, dict(made.parameters))
    return Executor(graph, parameters_from_bytes(graph, data))


def check_units(watched):
    """Each unit that has a graph gives with it, on the inputs of later runs, what it gave."""
    for recorded, unit, bases in watched.units():
        runs = [(base, watched.inputs(unit, base)) for base in bases]
        runs = [(base, inputs) for base, inputs in runs if inputs is not None]
        if not runs:
            continue
        try:
            made = graph_of_unit(effects(recorded), unit, watched.tensors(unit), runs[0][1])
        except GraphError as error:
            assert str(error) in REASONS
            outcomes[str(error)] += 1
            continue
        outcomes['graph'] += 1
        executor = sent(made)
        for base, inputs in runs[1:]:
            results = executor(made.named(inputs))
            for read in made.reads:
                if read.step in watched.read.get(base, {}):  # not of one that ended elsewhere
                    outcomes['read'] += 1
                    assert bits_of(read.value(results)) == watched.read[base][read.step]


def bits_of(value):
    return bits(value) if isinstance(value, torch.Tensor) else value


@settings(max_examples=60, derandomize=True, **OPTIONS)
@given(PROGRAMS)
def test_graphs_of_random_programs_give_their_bits(instructions):
    watched = Watched()
    try:
        watched.session.play(program_of(instructions), 9)
        check_units(watched)
    finally:
        watched.close()


def test_most_random_programs_had_a_graph():
    assert outcomes['graph'] > 40 and outcomes['read'] > 150


@pytest.mark.parametrize(
    ('actions', 'reason'),
    [
        (['rand', 'add'], REASONS[0]),
        (['count_up'], REASONS[1]),
        (['take_carried', 'carry'], REASONS[2]),
    ],
)
def test_a_unit_that_leaves_something_behind_has_no_graph(actions, reason):
    watched = Watched()
    names = [name for name, _ in ACTIONS]
    whole = ['relu'] * 6 + actions
    try:
        before = outcomes.copy()
        program = program_of([Instruction(names.index(each), 0, 0, 0, 0) for each in whole])
        watched.session.play(program, 9)
        check_units(watched)
        assert outcomes - before == Counter({reason: 1})
    finally:
        watched.close()


@pytest.mark.long
@settings(max_examples=3000, **OPTIONS)
@given(PROGRAMS)
def test_graphs_of_many_random_programs_give_their_bits(instructions):
    test_graphs_of_random_programs_give_their_bits.hypothesis.inner_test(instructions)


SOME = ['bert', 'convnext', 'dinov2', 'mobilenet_v2', 'resnet', 'swin', 'vit', 'wav2vec2']
DRAWS = ['gpt2_stops', 'llama', 'vit_mae']
OTHERS = [each for each in runner.names() if each not in SOME]


def check_family(name):
    pytest.importorskip('transformers')
    watched = Watched()
    try:
        path = runner.PROGRAMS / f'{name}.py'
        program = {'__name__': name}
        exec(compile(path.read_text(), str(path), 'exec'), program)
        for _ in program['inferences'](6):
            pass
        before = outcomes.copy()
        check_units(watched)
        return outcomes - before
    finally:
        watched.close()


@pytest.mark.parametrize('name', SOME)
def test_graph_of_a_public_model_gives_its_bits(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    assert check_family(name)['read'] >= 2


@pytest.mark.long
@pytest.mark.parametrize('name', OTHERS)
def test_graph_of_another_public_model_gives_its_bits(name, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    found = check_family(name)
    assert found['it draws random numbers' if name in DRAWS else 'graph'] >= 1


def test_parameters_are_known_to_have_changed():
    watched = Watched()
    try:
        model = layers(0, 6, 5, 4).to('cuda')
        for index in range(6):
            model(image(index, 3, 6).to('cuda')).cpu()
        ((recorded, unit, bases),) = watched.units()
        given = watched.inputs(unit, bases[0])
        made = graph_of_unit(effects(recorded), unit, watched.tensors(unit), given)
        assert len(made.externals) == 4 and made.holds(watched.tensors(unit))
        view = model[0].weight.data[:2]
        view.mul_(2.0)
        watched.session.client.synchronize()
        assert not made.holds(watched.tensors(unit))
    finally:
        watched.close()


def test_a_tensor_that_is_read_and_then_changed_is_read_as_it_was():
    watched = Watched()
    try:
        weight = torch.randn(5, 6).to('cuda')
        for index in range(6):
            x = image(index, 3, 6).to('cuda') @ weight.t()
            before = x[1:].cpu()
            x.mul_(2.0)
            x[0] = x[2]
            after = x.t().cpu()
            assert torch.equal(after[:, 1:].t(), 2.0 * before)
        found = outcomes['read']
        check_units(watched)
        assert outcomes['read'] - found >= 6
    finally:
        watched.close()
