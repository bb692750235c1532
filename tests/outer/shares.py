#!/usr/bin/env python3
"""Share groups whose members sleep, move and die with their nodes: QoS 1 is not lost, QoS 2 is neither lost nor doubled.

    tests/outer/shares.py --magpie target/release/magpie [--seed N]
"""

import argparse
import signal
import sys
import threading
import time
from collections import Counter

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from nodes import Cluster
from report import Suite, check, wait_until

# Long enough for a machine that is busy compiling.
PATIENCE_S = 90
SESSION_S = 3600
# Messages of each QoS in a round.
MESSAGES = 1500


class Client:
    """A paho client of version 5, whose session and handshakes go on when it connects to another node."""

    def __init__(self, name, lasts=True):
        self.name, self.lasts = name, lasts
        self.got = Counter()
        self.connected, self.acknowledged = threading.Event(), threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self.client.max_inflight_messages_set(100)
        self.client.on_connect = lambda _c, _u, _f, code, _p: None if code.is_failure else self.connected.set()
        self.client.on_message = lambda _c, _u, message: self.got.update([message.payload.decode()])
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: None if any(code.is_failure for code in codes) else self.acknowledged.set()

    def connect(self, port):
        """Tries until it is let in."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_S if self.lasts else 0
        until = time.monotonic() + PATIENCE_S
        while not self.connected.is_set():
            check(time.monotonic() < until, f"{self.name} is not let in")
            try:
                self.client.connect("127.0.0.1", port, keepalive=30, clean_start=not self.lasts, properties=properties)
                self.client.loop_start()
                self.connected.wait(10)
            except OSError:
                time.sleep(0.2)
            if not self.connected.is_set():
                self.client.loop_stop()
        return self

    def subscribe(self, group, topics, qos):
        self.acknowledged.clear()
        self.client.subscribe(f"$share/{group}/{topics}", qos)
        check(self.acknowledged.wait(PATIENCE_S), f"{self.name}: no SUBACK")

    def break_off(self):
        """Without DISCONNECT."""
        self.client.loop_stop()
        if self.client.socket():
            self.client.socket().close()
        self.connected.clear()

    def publish(self, topic, qos, payloads, pause=0.0):
        """Returns when all are acknowledged."""
        sent = []
        for payload in payloads:
            sent.append(self.client.publish(f"{topic}/{len(sent) % 7}", payload, qos))
            if pause:
                time.sleep(pause)
        for info in sent:
            info.wait_for_publish(PATIENCE_S)
            check(info.is_published(), f"{self.name}: not acknowledged")

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    # Nodes do not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite("shares", arguments.seed)
    cluster = Cluster(arguments.magpie)
    if not suite.step("three nodes start", lambda: cluster.__enter__() and None):
        return suite.end()
    try:
        suite.step("with nobody there, messages wait for a session, and go to it on another node", nobody_there, cluster)
        suite.step("what a member leaves goes to another", leaving, cluster)
        suite.step("kill -9 of two members' node under load", killed_node, cluster, suite.random)
        suite.step("kill -9 of all nodes while messages wait and are under way", all_killed, cluster)
    finally:
        cluster.__exit__(None, None, None)
    return suite.end()


def payloads(name, count=MESSAGES):
    return [f"{name}-{number}" for number in range(count)]


def total(members):
    # Copied in one go, since messages come meanwhile.
    return sum((Counter(dict(member.got)) for member in members), Counter())


def complete(members, at_least_once, exactly_once):
    """Waits until all came, and a while for what should not."""
    wanted = set(at_least_once) | set(exactly_once)
    try:
        wait_until("all messages", PATIENCE_S, lambda: wanted <= set(total(members)))
    finally:
        missing = wanted - set(total(members))
        check(not missing, f"{len(missing)} of {len(wanted)} are missing, such as {sorted(missing)[:5]}")
    time.sleep(3)
    doubled = {payload: count for payload, count in total(members).items() if count > 1}
    twice = [payload for payload in exactly_once if payload in doubled]
    check(not twice, f"{len(twice)} at QoS 2 came more than once, such as {twice[:5]}")
    return f"{len(wanted)} messages, {len(doubled)} at QoS 1 came again"


def nobody_there(cluster):
    first, second, third = (node.mqtt for node in cluster.nodes)
    member = Client("sleeper").connect(first)
    member.subscribe("sleep", "sleep/+", 2)
    member.break_off()
    writer = Client("sleep-writer", lasts=False).connect(second)
    once, exactly = payloads("once", 300), payloads("exactly", 300)
    writer.publish("sleep", 1, once)
    writer.publish("sleep", 2, exactly)
    check(not member.got, "it sleeps")
    member.connect(third)
    told = complete([member], once, exactly)
    for client in (member, writer):
        client.end()
    return told


def leaving(cluster):
    first, second, third = (node.mqtt for node in cluster.nodes)
    # It acknowledges nothing: what it has is the other's when it has gone.
    silent = Client("silent", lasts=False)
    silent.client.manual_ack_set(True)
    silent.connect(first).subscribe("leave", "leave/+", 1)
    writer = Client("leave-writer", lasts=False).connect(second)
    messages = payloads("leave", 200)
    writer.publish("leave", 1, messages)
    wait_until("the first has all", PATIENCE_S, lambda: len(silent.got) == len(messages))
    other = Client("other", lasts=False).connect(third)
    other.subscribe("leave", "leave/+", 1)
    time.sleep(1)
    check(not other.got, "the first has them")
    silent.break_off()
    told = complete([other], messages, [])
    for client in (other, writer):
        client.end()
    return told


def killed_node(cluster, random):
    doomed = cluster.nodes[1]
    others = cluster.others(doomed)
    members = [Client(f"worker-{number}") for number in range(4)]
    places = [others[0], doomed, others[1], doomed]
    for member, node in zip(members, places):
        member.connect(node.mqtt)
        member.subscribe("work", "work/one/+", 1)
        member.subscribe("work", "work/two/+", 2)
    writers = [Client(f"work-writer-{qos}", lasts=False).connect(others[0].mqtt) for qos in (1, 2)]
    once, exactly = payloads("work-once"), payloads("work-exactly")
    publishing = [
        threading.Thread(target=writers[0].publish, args=("work/one", 1, once, 0.004)),
        threading.Thread(target=writers[1].publish, args=("work/two", 2, exactly, 0.004)),
    ]
    for thread in publishing:
        thread.start()
    time.sleep(random.uniform(2, 4))
    doomed.kill()
    killed_at = len(total(members))
    check(0 < killed_at < len(once) + len(exactly), f"the node died under load, after {killed_at} messages")
    for member in (members[1], members[3]):
        member.break_off()
    members[1].connect(others[0].mqtt)
    # This one stays away for longer than its node's life is waited for.
    time.sleep(12)
    members[3].connect(others[1].mqtt)
    for thread in publishing:
        thread.join(PATIENCE_S * 2)
        check(not thread.is_alive(), "the writers come to an end")
    told = complete(members, once, exactly)
    doomed.start()
    cluster.wait_ready()
    for client in members + writers:
        client.end()
    return f"{told}; {killed_at} had come when the node died"


def all_killed(cluster):
    ports = [node.mqtt for node in cluster.nodes]
    members = [Client(f"all-{number}") for number in range(2)]
    for member, port in zip(members, ports):
        member.connect(port)
        member.subscribe("all", "all/+", 2)
    members[0].break_off()
    writer = Client("all-writer", lasts=False).connect(ports[2])
    once, exactly = payloads("all-once", 300), payloads("all-exactly", 300)
    writer.publish("all", 1, once)
    writer.publish("all", 2, exactly[:150])
    members[1].break_off()
    writer.publish("all", 2, exactly[150:])
    for node in cluster.nodes:
        node.kill()
    writer.break_off()
    for node in cluster.nodes:
        node.start()
    cluster.wait_ready()
    for member, port in zip(members, reversed(ports)):
        member.connect(port)
    told = complete(members, once, exactly)
    for member in members:
        member.end()
    return told


if __name__ == "__main__":
    sys.exit(main())
