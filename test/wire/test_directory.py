"""Which servers are there, when one is lost, and which one is used."""

import threading

import pytest

from offload_ros.wire.directory import MAX_SERVERS, ServerDirectory, ServerState

HASH = 'a1b2c3d4e5f6'


def state(name='/server', session='s1', **fields):
    """Return a heartbeat of a server that has the model 'vit'."""
    return ServerState(name, session, **{'models': {'vit': frozenset({HASH})}, **fields})


@pytest.fixture
def losses():
    """Return the list of (name, session, why) that the directory reports."""
    return []


@pytest.fixture
def directory(clock, losses):
    return ServerDirectory(0.5, lambda *loss: losses.append(loss), clock)


def connect(directory, *states):
    for one in states:
        directory.heard(one)
        directory.connect(one.name, one.session)


def test_lost_after_must_be_positive():
    for wrong in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match='lost_after_s must be above 0'):
            ServerDirectory(wrong)


def test_first_heartbeat_is_new_and_the_next_is_not(directory):
    assert directory.heard(state())
    assert not directory.heard(state(queue_length=3))
    assert [server.queue_length for server in directory.alive()] == [3]


def test_silent_server_is_lost_once_and_reported(directory, clock, losses):
    directory.heard(state())
    clock.now_s += 0.5
    assert directory.expire() == []
    assert len(directory.alive()) == 1
    clock.now_s += 0.01
    assert directory.alive() == [], 'a silent server is not used even before it is expired'
    assert directory.expire() == ['/server']
    assert directory.expire() == []
    assert losses == [('/server', 's1', 'server /server is lost')]


def test_heartbeats_keep_a_server_alive(directory, clock, losses):
    for _ in range(20):
        directory.heard(state())
        clock.now_s += 0.3
        assert directory.expire() == []
    assert losses == []


def test_only_the_silent_one_of_two_servers_is_lost(directory, clock, losses):
    directory.heard(state('/a'))
    clock.now_s += 0.4
    directory.heard(state('/b'))
    clock.now_s += 0.4
    assert directory.expire() == ['/a']
    assert [server.name for server in directory.alive()] == ['/b']


def test_server_that_comes_back_is_new_and_must_connect_again(directory, clock):
    connect(directory, state())
    clock.now_s += 1.0
    directory.expire()
    assert directory.heard(state())
    assert directory.choose('vit', HASH) == (None, 'server /server is connecting')


def test_restart_ends_the_old_session_and_disconnects(directory, clock, losses):
    connect(directory, state())
    clock.now_s += 0.3
    assert directory.heard(state(session='s2'))
    assert losses == [('/server', 's1', 'server /server was restarted')]
    assert [(server.session, server.connected) for server in directory.alive()] == [('s2', False)]


def test_connection_outlives_heartbeats(directory):
    connect(directory, state())
    directory.heard(state(busy=0.5))
    assert directory.choose('vit', HASH)[0].connected


def test_packet_of_another_session_or_an_unknown_server_connects_nothing(directory):
    directory.heard(state())
    directory.connect('/server', 'older')
    directory.connect('/nobody', 's1')
    assert [server.connected for server in directory.alive()] == [False]


def test_server_that_beats_but_does_not_answer_is_not_used(directory, losses):
    connect(directory, state())
    directory.disconnect('/server', 'older', 'does not answer')
    directory.disconnect('/nobody', 's1', 'does not answer')
    assert losses == []
    directory.disconnect('/server', 's1', 'does not answer')
    directory.disconnect('/server', 's1', 'does not answer')
    assert losses == [('/server', 's1', 'server /server does not answer')], 'once'
    assert directory.holds('/server', 's1'), 'it is alive, and may be asked for a session again'
    assert directory.choose('vit', HASH) == (None, 'server /server is connecting')
    directory.heard(state())
    assert directory.choose('vit', HASH)[0] is None, 'a heartbeat alone does not make it of use'
    directory.connect('/server', 's1')
    assert directory.choose('vit', HASH)[0].name == '/server'


def test_directory_knows_which_session_it_holds(directory, clock):
    directory.heard(state())
    assert directory.holds('/server', 's1')
    assert not directory.holds('/server', 's2')
    assert not directory.holds('/other', 's1')
    clock.now_s += 1.0
    directory.expire()
    assert not directory.holds('/server', 's1')


def test_server_that_says_that_it_ends_is_gone_at_once(directory, losses):
    connect(directory, state())
    assert not directory.leave('/server', 'older'), 'an earlier session cannot end this one'
    assert not directory.leave('/other', 's1')
    assert directory.leave('/server', 's1')
    assert not directory.leave('/server', 's1')
    assert directory.alive() == []
    assert losses == [('/server', 's1', 'server /server ended')]
    assert directory.choose('vit', HASH) == (None, 'no server is there (/server ended)')


def test_more_servers_than_a_network_has_are_not_taken_up(directory, clock):
    for index in range(MAX_SERVERS):
        assert directory.heard(state(f'/server{index}'))
    # The caller opens a publisher for each new server: a flood of names must not open any.
    assert not directory.heard(state('/one_too_many'))
    assert len(directory.alive()) == MAX_SERVERS
    assert not directory.heard(state('/server0', queue_length=9))
    clock.now_s += 0.3
    assert directory.heard(state('/server0', session='s2'))


def test_who_never_answers_makes_room_once_for_another_name(directory, clock):
    everybody = [state(f'/server{index}') for index in range(MAX_SERVERS)]
    connect(directory, *everybody[1:])
    directory.heard(everybody[0])
    late = state('/late')

    def second_later():
        for _ in range(3):
            clock.now_s += 0.4
            for one in everybody:
                directory.heard(one)

    assert not directory.heard(late), 'the silent one has had no time to answer yet'
    second_later()
    assert directory.heard(late)
    assert directory.names() == {'/late', *(one.name for one in everybody[1:])}
    everybody[0], returned = late, everybody[0]
    second_later()
    assert not directory.heard(returned), 'it had its time'
    assert directory.heard(state('/later'))
    directory.connect('/later', 's1')
    everybody[0] = state('/later')
    second_later()
    assert not directory.heard(state('/latest')), 'nobody who answers is sent away'


def test_second_server_of_one_name_is_not_taken_for_a_restart(directory, clock, losses):
    connect(directory, state())
    for _ in range(20):
        clock.now_s += 0.05
        assert not directory.heard(state(session='twin'))
        clock.now_s += 0.05
        assert not directory.heard(state())
    assert directory.holds('/server', 's1')
    assert not directory.holds('/server', 'twin')
    assert losses == []
    clock.now_s += 0.3
    assert directory.heard(state(session='twin')), 'the first one has ended'


def test_silence_while_nobody_could_listen_is_excused(directory, clock, losses):
    connect(directory, state())
    clock.now_s += 5.0
    directory.excuse(4.9)
    assert directory.expire() == []
    directory.excuse(60.0)  # nobody is heard in the future
    clock.now_s += 0.51
    assert directory.expire() == ['/server']
    assert len(losses) == 1


def test_least_loaded_server_is_chosen(directory):
    connect(
        directory,
        state('/a', queue_length=2, busy=0.0),
        state('/b', queue_length=1, busy=0.9),
        state('/c', queue_length=1, busy=0.2),
        state('/d', queue_length=1, busy=0.2),
    )
    assert directory.choose('vit', HASH)[0].name == '/c'


def test_connected_server_is_chosen_over_a_less_loaded_one_that_connects(directory):
    directory.heard(state('/a'))
    connect(directory, state('/b', queue_length=9))
    assert directory.choose('vit', HASH)[0].name == '/b'


@pytest.mark.parametrize('preferred', ['/b', 'b', '/b/'])
def test_preferred_server_is_chosen_whatever_its_load(directory, preferred):
    connect(directory, state('/a'), state('/b', queue_length=9))
    chosen, why = directory.choose('vit', HASH, preferred)
    assert (chosen.name, why) == ('/b', '')


def test_server_of_a_name_is_there_once_it_is_connected(directory):
    connect(directory, state('/a'))
    directory.heard(state('/b', queue_length=9))
    assert directory.named('/a')[0].name == '/a'
    assert directory.named('/b') == (None, 'server /b is connecting')
    assert directory.named('a') == (None, 'server a is not there'), 'a full name is asked for'


def test_preferred_server_is_not_replaced_by_another(directory):
    connect(directory, state('/a'))
    assert directory.choose('vit', HASH, '/b') == (None, 'server /b is not there')


def test_why_there_is_no_server_names_the_lost_one(directory, clock):
    assert directory.choose('vit', HASH) == (None, 'no server is there')
    directory.heard(state())
    clock.now_s += 1.0
    directory.expire()
    assert directory.choose('vit', HASH) == (None, 'no server is there (/server is lost)')


def test_missing_model_is_named_with_those_that_are_there(directory):
    connect(
        directory,
        state(models={'sconet': frozenset('x'), 'kapao': frozenset('y')}),
        state('/empty', models={}),
    )
    chosen, why = directory.choose('vit', HASH)
    assert chosen is None
    assert why == (
        "server /empty has no model 'vit' (it has: none): add it to its models.yaml; "
        "server /server has no model 'vit' (it has: kapao, sconet): add it to its models.yaml"
    )


def test_other_content_is_named_with_both_hashes(directory):
    connect(directory, state(models={'vit': frozenset({'1234567890'})}))
    assert directory.choose('vit', HASH) == (
        None,
        "server /server has another 'vit' (12345678, the robot's is a1b2c3d4): "
        'use the same weights, source and preprocessing on both',
    )


def test_heartbeats_from_many_threads_lose_no_server(monkeypatch):
    monkeypatch.setattr('offload_ros.wire.directory.RESTART_S', 0.0)
    directory = ServerDirectory(60.0)

    def beat(name):
        for session in range(50):
            directory.heard(state(name, session=str(session)))
            directory.connect(name, str(session))
            directory.expire()
            directory.choose('vit', HASH)

    threads = [threading.Thread(target=beat, args=(f'/{index}',)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [(server.session, server.connected) for server in directory.alive()] == [
        ('49', True)
    ] * 8
