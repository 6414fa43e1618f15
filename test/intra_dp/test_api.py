"""Three lines: attached modules give their own results, with a server, without one, and again."""

from dataclasses import replace
import logging
import threading
import time
from typing import NamedTuple

import pytest
import torch
from torch import nn

from offload_ros.intra_dp import attached as attached_module
from offload_ros.intra_dp import plans as plans_module
from offload_ros.intra_dp.api import IntraDP
from offload_ros.intra_dp.calls import taken_apart
from offload_ros.intra_dp.inference import SplitInference
from offload_ros.strategy import LinkState

from ..cuts.conftest import until
from ..cuts.test_strategy import Robot

QUICK = LinkState(200e6, 200e6, 0.001)


class Network(nn.Module):
    """(1, 3, H, W) and a factor to a dictionary with a list in it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image, scale=1.0, *, extra=None):
        x = self.layers(image) * scale
        if extra is not None:
            x = x + extra['bias']
        return {'map': self.head(x), 'others': [x.mean((2, 3)), None]}


class InProcess(Robot):
    """A contact to servers in this process."""

    def __init__(self):
        super().__init__()
        self.state = QUICK
        self.closed = False

    def servers(self):
        alive = self.directory.alive()
        return [(each, self.channels[each.name]) for each in alive if each.name in self.channels]

    def link_state(self, server):
        return self.state

    def why_none(self):
        return 'no offload server is there'

    def close_contact(self):
        self.closed = True


@pytest.fixture
def contact(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(attached_module, 'TOLD_AFTER_S', 0.2)
    made = InProcess()
    yield made
    made.close()


class Shim(NamedTuple):
    """``close`` of a contact does not end the test's site."""

    site: InProcess

    def __getattr__(self, name):
        return getattr(self.site, name)

    def close(self):
        self.site.closed = True


@pytest.fixture
def idp(contact, monkeypatch):
    """The robot never wins here: what is tested is the way over the server."""
    original = plans_module.SplitPlans.__init__

    def without_device(self, *args, **options):
        original(self, *args, **options)
        curve = self._on_device.curve
        slow = type(curve)(curve.bytes_per_s, curve.latency_s + 100.0)
        self._on_device = replace(self._on_device, curve=slow)

    monkeypatch.setattr(plans_module.SplitPlans, '__init__', without_device)
    monkeypatch.setattr(SplitInference, 'learn', lambda *_: None)
    made = IntraDP(contact=Shim(contact))
    yield made
    made.close()
    assert contact.closed


def image(seed=1, size=(40, 44)):
    return torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(seed))


def same(found, want):
    assert type(found) is type(want)
    if isinstance(want, dict):
        assert list(found) == list(want)
        for key, each in want.items():
            same(found[key], each)
    elif isinstance(want, (list, tuple)):
        assert len(found) == len(want)
        for one, other in zip(found, want, strict=True):
            same(one, other)
    elif want is None:
        assert found is None
    else:
        top = float(want.detach().abs().max())
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5 * top)


def until_together(idp, model, *args, **kwargs):
    """Call until the server takes part; the last result."""
    attached = idp._attached[id(model)][1]
    before = attached.counts.together
    end_s = time.monotonic() + 60.0
    while attached.counts.together == before:
        assert time.monotonic() < end_s, idp.status()
        result = model(*args, **kwargs)
        time.sleep(0.01)
    return result


def test_three_lines_give_the_models_results_together_with_a_server(contact, idp):
    contact.start()
    model, plain = Network().eval(), Network().eval()
    assert idp.attach(model) is model
    with torch.no_grad():
        same(model(image()), plain(image()))  # at once, by itself
        assert 'all on this machine' in idp.status()
        until_together(idp, model, image())
        for seed in range(4):
            same(model(image(seed)), plain(image(seed)))
    assert ' together with /server' in idp.status() and 'plans for' in idp.status()
    assert idp._attached[id(model)][1].counts.together >= 1
    # The second program need not measure.
    again = Network().eval()
    other = IntraDP(contact=Shim(contact))
    other.attach(again)
    again(image())
    until(lambda: 'plans for' in other.status(), 5.0)
    other.close()


def test_arguments_by_keyword_nested_and_of_other_shapes_have_graphs_of_their_own(contact, idp):
    contact.start()
    model, plain = idp.attach(Network().eval()), Network().eval()
    calls = [
        ((image(),), {}),
        ((), {'image': image(2), 'scale': 0.5}),
        ((image(3, (31, 37)), 2.0), {'extra': {'bias': torch.full((1, 8, 1, 1), 0.25)}}),
    ]
    with torch.no_grad():
        for args, kwargs in calls:
            same(until_together(idp, model, *args, **kwargs), plain(*args, **kwargs))
        for args, kwargs in calls:
            same(model(*args, **kwargs), plain(*args, **kwargs))
        # More than a few shapes are the module's own.
        for width in range(50, 56):
            same(model(image(1, (20, width))), plain(image(1, (20, width))))


def test_detached_it_is_as_it_was(contact):
    model = Network().eval()
    before = dict(model.__dict__)
    with IntraDP(contact=Shim(contact)) as idp:
        idp.attach(model)
        assert model.forward != Network.forward.__get__(model)
        assert idp.detach(model) is model and idp.detach(model) is model
        assert model.__dict__ == before and idp.status() == ''
        idp.attach(model)
        own = Network().eval()
        own.forward = lambda image: image + 1.0
        idp.attach(own)
        assert torch.equal(own(image()), image() + 1.0)
    assert model.__dict__ == before and torch.equal(own(image()), image() + 1.0)
    with pytest.raises(ValueError, match='was closed'):
        idp.attach(model)
    idp.close()


def test_without_a_server_calls_stay_here_with_one_warning(contact, idp, caplog):
    caplog.set_level(logging.WARNING)
    model, plain = idp.attach(Network().eval()), Network().eval()
    for seed in range(3):
        same(model(image(seed)), plain(image(seed)))
    until(lambda: 'no offload server' in caplog.text)
    time.sleep(0.3)
    model(image())
    assert caplog.text.count('no offload server is there') == 1
    contact.start()
    with torch.no_grad():
        same(until_together(idp, model, image(5)), plain(image(5)))


def test_a_server_that_is_lost_is_done_without_and_another_one_is_used(contact, idp, caplog):
    contact.start()
    model, plain = idp.attach(Network().eval()), Network().eval()
    with torch.no_grad():
        until_together(idp, model, image())
        stopper = threading.Timer(0.05, contact.stop)
        stopper.start()
        for seed in range(40):
            same(model(image(seed)), plain(image(seed)))
            time.sleep(0.005)
        stopper.join()
        same(model(image(7)), plain(image(7)))
        assert caplog.text.count('no offload server is there') == 1
        contact.start()
        same(until_together(idp, model, image(8)), plain(image(8)))


def test_changed_weights_are_not_answered_by_the_old_ones(contact, idp):
    contact.start()
    model = idp.attach(Network().eval())
    with torch.no_grad():
        until_together(idp, model, image())
        plain = Network().eval()
        for each in (*plain.parameters(), *model.parameters()):
            each.mul_(0.5)
        same(model(image(2)), plain(image(2)))
        same(until_together(idp, model, image(3)), plain(image(3)))


def test_training_and_gradients_stay_here(contact, idp):
    contact.start()
    model = idp.attach(Network().eval())
    with torch.no_grad():
        until_together(idp, model, image())
    attached = idp._attached[id(model)][1]
    before = attached.counts.together
    wanted = image().requires_grad_()
    model(wanted)['map'].sum().backward()
    assert wanted.grad is not None and attached.counts.together == before
    model.train()
    assert model(image())['map'].requires_grad and attached.counts.together == before


class Says(nn.Module):
    """Not only tensors."""

    def forward(self, x):
        return x * 2.0, 'twice'


class Decides(nn.Module):
    """Python decides by what came: a graph can only do one of both."""

    def forward(self, x):
        return x * 2.0 if float(x.mean()) > 0.0 else x - 1.0


def test_what_cannot_come_from_a_server_is_the_modules_own_with_the_reason(contact, idp):
    contact.start()
    model = idp.attach(Says().eval())
    assert model(image())[1] == 'twice'
    until(lambda: 'returns a str' in idp.status())
    assert model(image())[1] == 'twice' and 'all on this machine' in idp.status()


def test_a_model_whose_python_decides_by_data_is_found_out(contact, idp, caplog):
    contact.start()
    model, plain = idp.attach(Decides().eval()), Decides().eval()
    end_s = time.monotonic() + 60.0
    while 'only on this machine' not in idp.status():
        for sign in (1.0, -1.0):
            same(model(sign * image()), plain(sign * image()))
        time.sleep(0.01)
        assert time.monotonic() < end_s, idp.status()


def test_plans_are_for_the_energy_where_that_is_asked_for_and_for_the_latency_again(contact, idp):
    contact.start()
    model, plain = Network().eval(), Network().eval()
    idp.attach(model, objective='energy', deadline_s=50.0)
    attached = idp._attached[id(model)][1]
    until_together(idp, model, image())
    assert ' J (least energy within 50000 ms)' in attached.last_plan, attached.last_plan
    same(model(image(5)), plain(image(5)))
    idp.attach(model)
    until_together(idp, model, image())
    assert ' J (' not in attached.last_plan, attached.last_plan
    same(model(image(6)), plain(image(6)))


def test_wrong_models_are_refused_with_what_to_do(contact):
    with IntraDP(contact=Shim(contact)) as idp:
        with pytest.raises(TypeError, match=r'torch\.nn\.Module, not a function'):
            idp.attach(lambda x: x)
        with pytest.raises(ValueError, match=r'call model.eval\(\)'):
            idp.attach(Network())
        with pytest.raises(ValueError, match="'speed' is not one of latency, energy, weighted"):
            idp.attach(Network().eval(), objective='speed')
        with pytest.raises(ValueError, match="objective 'accuracy' is for strategy auto"):
            idp.attach(Network().eval(), objective='accuracy')
        assert idp.status() == ''


def test_calls_are_told_apart_by_all_that_shapes_their_graph():
    key = taken_apart((image(),), {}).key
    assert key == taken_apart((image(2),), {}).key
    for args, kwargs in [
        ((image(1, (40, 45)),), {}), ((image().double(),), {}), ((image(), 2.0), {}),
        ((), {'image': image()}), ((image(),), {'scale': 1}), ((image(),), {'scale': 1.0}),
        ((image(),), {'scale': True}), (([image()],), {}),
    ]:  # fmt: skip
        assert taken_apart(args, kwargs).key != key
    assert taken_apart((image(),), {'scale': 1}).key != taken_apart((image(),), {'scale': 1.0}).key
    assert taken_apart((image(), object()), {}) is None
    assert taken_apart((2.0,), {}) is None
    assert taken_apart((image().to_sparse(),), {}) is None
