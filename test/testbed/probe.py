"""Run on the hosts of a testbed: bounded transfers and echoes, results as one line of JSON.

probe.py tcp-sink                    accept a connection, print [(time in s, bytes so far)]
probe.py tcp-source IP SECONDS       send for so long
probe.py udp-sink                    count datagrams until the one that says how many there were
probe.py udp-source IP COUNT BYTES BYTES_PER_S
probe.py udp-echo                    send back every datagram
probe.py udp-ping IP COUNT PAUSE_S   print round-trip times in s; None: no answer within 0.3 s
"""

import json
import socket
import sys
import time

PORT = 5201
GROUP = '239.255.0.1'
RCVBUFFORCE = 33  # asm-generic/socket.h; past the system's limit, so that no sink drops


def udp(timeout_s=10.0):
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(timeout_s)
    return made


def report(**figures):
    print(json.dumps(figures), flush=True)


def tcp_sink():
    listener = socket.create_server(('', PORT))
    print('ready', flush=True)
    connection, _ = listener.accept()
    buffer = bytearray(1 << 18)
    total, arrivals = 0, []
    while count := connection.recv_into(buffer):
        total += count
        arrivals.append((time.monotonic(), total))
    report(arrivals=arrivals)


def tcp_source(ip, seconds):
    connection = socket.create_connection((ip, PORT), timeout=10.0)
    data = bytes(1 << 16)
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s:
        connection.sendall(data)
    connection.close()


def udp_sink():
    server = udp()
    server.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 1 << 24)
    server.bind(('', PORT))
    print('ready', flush=True)
    received, first_s, last_s = 0, 0.0, 0.0
    while True:
        data = server.recv(2048)
        if data.startswith(b'end'):
            report(received=received, sent=int(data[3:]), duration_s=last_s - first_s)
            return
        last_s = time.monotonic()
        first_s = first_s or last_s
        received += 1


def udp_source(ip, count, size, bytes_per_s):
    sender, data = udp(), bytes(int(size))
    began_s = time.monotonic()
    for index in range(int(count)):
        sender.sendto(data, (ip, PORT))
        ahead_s = index * int(size) / float(bytes_per_s) - (time.monotonic() - began_s)
        if ahead_s > 0.001:
            time.sleep(ahead_s)
    report(duration_s=time.monotonic() - began_s)
    time.sleep(0.3)
    for _ in range(20):  # some may be lost
        sender.sendto(b'end%d' % int(count), (ip, PORT))


def multicast_source(seconds):
    sender = udp()
    end_s = time.monotonic() + float(seconds)
    while time.monotonic() < end_s:
        sender.sendto(b'here', (GROUP, PORT))
        time.sleep(0.02)


def multicast_sink(ip, seconds):
    member = udp(float(seconds))
    member.bind(('', PORT))
    request = socket.inet_aton(GROUP) + socket.inet_aton(ip)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    try:
        report(heard=member.recv(2048).decode())
    except TimeoutError:
        report(heard=None)


def udp_echo():
    server = udp(None)
    server.bind(('', PORT))
    print('ready', flush=True)
    while True:
        server.sendto(*server.recvfrom(2048))


def udp_ping(ip, count, pause_s):
    client = udp(0.3)
    times = []
    for number in range(int(count)):
        began_s = time.monotonic()
        client.sendto(b'%d' % number, (ip, PORT))
        try:
            while client.recv(2048) != b'%d' % number:
                pass
            times.append(time.monotonic() - began_s)
        except OSError:
            times.append(None)
        time.sleep(float(pause_s))
    report(rtt_s=times)


if __name__ == '__main__':
    globals()[sys.argv[1].replace('-', '_')](*sys.argv[2:])
