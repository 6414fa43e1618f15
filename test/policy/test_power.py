"""The power model, states of a schedule, and a board's own sensors."""

from __future__ import annotations

import math
from pathlib import Path
import time

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from offload_ros.policy.board_power import BoardPower, EnergyMeter
from offload_ros.policy.power import PowerModel, covered_s, state_times

moments = st.integers(0, 30)
intervals = st.lists(st.tuples(moments, moments).map(sorted), max_size=6)


def columns(pairs):
    """Starts and ends, (k, 1)."""
    array = np.array(pairs, dtype=float).reshape(-1, 2)
    return array[:, :1], array[:, 1:]


def test_watts_of_the_paper_are_the_default_and_others_can_be_given():
    assert PowerModel().energy_j(1.0, 2.0, 3.0) == pytest.approx(13.35 + 2 * 4.25 + 3 * 4.04)
    assert PowerModel(10.0, 5.0, 1.0).energy_j(1.0, 2.0, 3.0) == 23.0


@pytest.mark.parametrize('watts', [-1.0, math.nan, math.inf])
def test_watts_that_are_none_are_refused(watts):
    with pytest.raises(ValueError, match='communicating_w must be a finite number'):
        PowerModel(communicating_w=watts)


@given(intervals, intervals, st.integers(1, 30))
def test_states_are_counted_second_by_second(computing, communicating, latency):
    states = state_times(columns(computing), columns(communicating), np.array([float(latency)]))
    seconds = {'computing': 0, 'communicating': 0, 'standby': 0}
    for second in range(latency):
        if any(begin <= second < end for begin, end in computing):
            seconds['computing'] += 1
        elif any(begin <= second < end for begin, end in communicating):
            seconds['communicating'] += 1
        else:
            seconds['standby'] += 1
    assert states.computing_s[0] == seconds['computing']
    assert states.communicating_s[0] == seconds['communicating']
    assert states.standby_s[0] == seconds['standby']
    expected = PowerModel(7.0, 5.0, 3.0).energy_j(*seconds.values())
    assert states.energy_j(PowerModel(7.0, 5.0, 3.0))[0] == pytest.approx(expected)


@given(st.lists(intervals.filter(lambda each: len(each) == 3), min_size=2, max_size=2))
def test_plans_beside_each_other_do_not_mix(plans):
    starts, ends = (
        np.concatenate(each, axis=1)
        for each in zip(*(columns(plan) for plan in plans), strict=True)
    )
    alone = [covered_s(*columns(plan))[0] for plan in plans]
    assert covered_s(starts, ends).tolist() == alone


def test_endless_schedules_cost_endless_energy_unless_waiting_is_free():
    states = state_times(columns([(0, 1)]), columns([(1, 2)]), np.array([np.inf]))
    assert states.energy_j(PowerModel())[0] == np.inf
    assert states.energy_j(PowerModel(standby_w=0.0))[0] == 0.0


def board(root, driver, device, folder, files):
    path = root / 'bus' / 'i2c' / 'drivers' / driver / device / folder
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_text(f'{content}\n')
    return path


def rail(channel, label, millivolt, milliampere):
    return {
        f'in{channel}_label': label,
        f'in{channel}_input': millivolt,
        f'curr{channel}_input': milliampere,
    }


def test_rail_of_the_whole_module_is_read_alone(tmp_path):
    files = rail(1, 'VDD_IN', 5040, 1500) | rail(2, 'VDD_CPU_GPU_CV', 5032, 400)
    files |= rail(3, 'VDD_SOC', 5032, 300)
    files |= {'in7_label': 'sum of shunt voltages', 'in7_input': 12, 'name': 'ina3221'}
    path = board(tmp_path, 'ina3221', '1-0040', 'hwmon/hwmon3', files)
    found = BoardPower.find(tmp_path)
    assert found is not None
    assert found.read_w() == pytest.approx(5.040 * 1.5)
    (path / 'curr1_input').write_text('2000\n')
    assert found.read_w() == pytest.approx(5.040 * 2.0)


def test_rails_of_a_board_without_a_common_one_are_added_up(tmp_path):
    files = rail(1, 'VDD_GPU_SOC', 20_000, 100) | rail(2, 'VDD_CPU_CV', 20_000, 50)
    board(tmp_path, 'ina3221', '1-0040', 'hwmon/hwmon3', files | rail(3, 'VIN_SYS_5V0', 5000, 600))
    other = rail(1, 'NC', 20_000, 9) | rail(2, 'VDDQ_VDD2_1V8AO', 5000, 100)
    board(tmp_path, 'ina3221', '1-0041', 'hwmon/hwmon4', other)
    found = BoardPower.find(tmp_path)
    assert found is not None
    assert found.read_w() == pytest.approx(2.0 + 1.0 + 3.0)


def test_rails_of_the_older_driver_are_read_in_milliwatts(tmp_path):
    files = {'rail_name_0': 'VDD_IN', 'in_power0_input': 4321, 'rail_name_1': 'VDD_SOC'}
    board(tmp_path, 'ina3221x', '7-0040', 'iio:device0', files | {'in_power1_input': 1000})
    found = BoardPower.find(tmp_path)
    assert found is not None
    assert found.read_w() == pytest.approx(4.321)


def test_boards_without_readable_sensors_have_none(tmp_path):
    assert BoardPower.find(tmp_path) is None
    board(tmp_path, 'ina3221', '1-0040', 'hwmon/hwmon0', rail(1, 'VDD_IN', 'x', 5))
    board(tmp_path, 'ina3221', '1-0041', 'hwmon/hwmon1', rail(1, 'NC', 5000, 5))
    board(tmp_path, 'ina3221', '1-0042', 'hwmon/hwmon2', {'in1_label': 'VDD_SOC'})
    assert BoardPower.find(tmp_path) is None
    assert BoardPower.find(Path('/proc/self/nowhere')) is None


def test_energy_is_the_area_under_the_samples():
    meter = EnergyMeter(lambda: 0.0, period_s=0.1)
    for moment, watts in ((1.0, 10.0), (1.1, 20.0), (1.2, 20.0), (1.3, 0.0)):
        meter.add(moment, watts)
    assert meter.energy_j(1.0, 1.3) == pytest.approx(1.5 + 2.0 + 1.0)
    assert meter.energy_j(1.05, 1.15) == pytest.approx(0.05 * 17.5 + 0.05 * 20.0)
    assert meter.energy_j(1.12, 1.16) == pytest.approx(0.04 * 20.0)
    assert meter.energy_j(0.9, 1.0) == pytest.approx(1.0)  # held before the first
    assert meter.energy_j(1.0, 1.0) == 0.0
    assert math.isnan(meter.energy_j(30.0, 31.0))
    assert math.isnan(meter.energy_j(2.0, 1.0))


def test_meter_samples_by_itself_and_outlives_a_failing_sensor():
    answers = iter([5.0, OSError('busy'), 5.0, ValueError('text')])

    def read_w():
        answer = next(answers, 5.0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    meter = EnergyMeter(read_w, period_s=0.01)
    begin_s = time.monotonic()
    meter.start()
    time.sleep(0.2)
    end_s = time.monotonic()
    meter.close()
    assert meter.energy_j(begin_s, end_s) == pytest.approx(5.0 * (end_s - begin_s))
    with pytest.raises(ValueError, match='period_s must be above 0'):
        EnergyMeter(read_w, 0.0)
