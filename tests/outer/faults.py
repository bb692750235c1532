#!/usr/bin/env python3
"""Nodes are killed, stopped and started under load: what was acknowledged is delivered, and a minority refuses."""

import argparse
import signal
import sys
import threading
import time

from clients import Paho, Patient
from nodes import READY_WITHIN_S, Cluster
from report import Failure, Suite, check, say, wait_until

# An acknowledged message must have arrived after this.
ARRIVES_WITHIN_S = 12.0


class Load:
    """A publisher and a subscriber on each node. Publishers of a node that is away wait for it; each message is sent until it is acknowledged."""

    def __init__(self, cluster, name):
        self.name = name
        self.acknowledged = {}  # payload -> (node of the publisher, first sent, acknowledged)
        self.got = {node.name: {} for node in cluster.nodes}  # node -> payload -> times
        self.running = True
        self.errors = []
        self.subscribers = {
            node.name: Patient(f"{name}-sub-{node.name}", [node.mqtt], [f"{name}/#"], 5, self._received) for node in cluster.nodes
        }
        self.publishers = {node.name: Patient(f"{name}-pub-{node.name}", [node.mqtt], [], 5) for node in cluster.nodes}
        for one in (*self.subscribers.values(), *self.publishers.values()):
            wait_until(f"{one.name} is online", 30, one.there.is_set)
        self.threads = [threading.Thread(target=self._publish, args=(node.name, lane), daemon=True) for node in cluster.nodes for lane in range(3)]
        for thread in self.threads:
            thread.start()

    def _received(self, client, message, _at):
        got = self.got[client.name.removeprefix(f"{self.name}-sub-")]
        got[message.payload] = got.get(message.payload, 0) + 1

    def _publish(self, node, lane):
        number = 0
        while self.running:
            number += 1
            payload = f"{node} {lane} {number}".encode()
            first = time.monotonic()
            try:
                self.publishers[node].publish(f"{self.name}/{node}/{lane}/{number % 50}", payload, 120)
            except Failure as error:
                self.errors.append(error)
                return
            self.acknowledged[payload] = (node, first, time.monotonic())
            time.sleep(0.002)

    def end(self):
        """Stops publishing, waits for what is under way, and answers what came of it, in words."""
        self.running = False
        for thread in self.threads:
            thread.join()
        last, same = -1, 0
        while same < 5:
            time.sleep(1)
            now = sum(len(got) for got in self.got.values())
            last, same = now, same + 1 if now == last else 0
        owed = 0
        try:
            check(not self.errors, f"{self.errors[:1]}")
            for name, subscriber in self.subscribers.items():
                missing = []
                for payload, (_, first, acknowledged) in self.acknowledged.items():
                    if subscriber.was_there(first, acknowledged + ARRIVES_WITHIN_S):
                        owed += 1
                        if payload not in self.got[name]:
                            missing.append(payload)
                check(not missing, f"the subscriber on {name} was there all the time and misses {len(missing)}: {missing[:3]}")
        finally:
            for one in (*self.subscribers.values(), *self.publishers.values()):
                one.stopping.set()
                one.lost.set()
        return f"{len(self.acknowledged)} acknowledged, {owed} deliveries owed and made"

    def longest_gap(self, node, since):
        """The longest time after `since` without an acknowledgement on this node."""
        times = sorted(at for name, _, at in list(self.acknowledged.values()) if name == node and at >= since)
        times = [since, *times, time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    suite = Suite("faults", arguments.seed)
    cluster = Cluster(arguments.magpie)
    if not suite.step("three nodes start", lambda: cluster.__enter__() and None):
        return suite.end()
    try:
        nodes = suite.random.sample(cluster.nodes, 3)
        for node in nodes:
            suite.step(f"kill -9 of {node.name} under load, and its return", kill_and_return, cluster, node)
        suite.step(f"{nodes[0].name} is frozen for 8 s under load", freeze, cluster, nodes[0], 8)
        suite.step(f"{nodes[1].name} is frozen for 20 s under load, long enough to be declared down", freeze, cluster, nodes[1], 20)
        suite.step("two of three are killed: the third refuses, and heals", minority, cluster, nodes[2])
        suite.step("all are killed under load at once and started again", kill_all, cluster)
        suite.step("SIGTERM stops every node in order", stop_all, cluster)
    finally:
        cluster.__exit__(None, None, None)
    return suite.end()


def kill_and_return(cluster, node):
    load = Load(cluster, f"kill-{node.name}")
    time.sleep(2)
    killed = time.monotonic()
    node.kill()
    time.sleep(6)
    gap = max(load.longest_gap(other.name, killed) for other in cluster.others(node))
    node.start()
    ready = cluster.wait_ready()
    time.sleep(3)
    told = load.end()
    check(gap < 6, "nothing was acknowledged on the other nodes after the kill")
    return f"{told}; longest pause on the others {gap:.1f} s, ready again {ready:.1f} s after its start"


def freeze(cluster, node, seconds):
    load = Load(cluster, f"freeze{seconds}-{node.name}")
    time.sleep(1)
    frozen = time.monotonic()
    node.signal(signal.SIGSTOP)
    time.sleep(seconds)
    gap = max(load.longest_gap(other.name, frozen) for other in cluster.others(node))
    node.signal(signal.SIGCONT)
    ready = cluster.wait_ready()
    # A subscriber that is still connected by then was not skipped over.
    time.sleep(ARRIVES_WITHIN_S)
    told = load.end()
    check(gap < seconds, "nothing was acknowledged on the other nodes meanwhile")
    return f"{told}; longest pause on the others {gap:.1f} s, ready {ready:.1f} s after it went on"


def minority(cluster, node):
    others = cluster.others(node)
    publisher = Paho(node.mqtt, 5, keepalive=60)
    publisher.publish("minority", b"with quorum", 1)
    for other in others:
        other.kill()
    refused = wait_until("readiness fails", 15, lambda: node.readiness()[0] == 503)
    why = node.readiness()[1].strip()
    try:
        code = publisher.publish("minority", b"without quorum", 1)
        check(code >= 0x80, "a publish was acknowledged without a quorum")
        what = f"PUBACK {code:#x}"
    except (Failure, ValueError):
        what = "no acknowledgement"
    # Nobody is let in, or at least nobody gets an acknowledgement.
    try:
        late = Paho(node.mqtt, 5)
        code = late.publish("minority", b"without quorum", 1)
        check(code >= 0x80, "a publish was acknowledged without a quorum")
    except (Failure, OSError, ValueError) as error:
        if "acknowledged without" in str(error):
            raise
    others[0].start()
    healed = wait_until("two of three are ready", READY_WITHIN_S, lambda: node.is_ready() and others[0].is_ready())
    again = Paho(node.mqtt, 5)
    check(again.publish("minority", b"healed", 1) < 0x80, "no acknowledgement with two of three")
    again.close()
    others[1].start()
    cluster.wait_ready()
    return f"503 after {refused:.1f} s ({why}), {what}, healed {healed:.1f} s after the second node's start"


def kill_all(cluster):
    load = Load(cluster, "kill-all")
    time.sleep(3)
    for node in cluster.nodes:
        node.process.kill()
    for node in cluster.nodes:
        node.process.wait()
    before = len(load.acknowledged)
    time.sleep(1)
    for node in cluster.nodes:
        node.start()
    ready = cluster.wait_ready()
    time.sleep(8)
    after = len(load.acknowledged)
    told = load.end()
    check(after > before, "nothing was acknowledged after the restart")
    return f"{told}; all ready {ready:.1f} s after the start"


def stop_all(cluster):
    times = [f"{node.stop():.1f} s" for node in cluster.nodes]
    say(f"       {', '.join(times)}")


if __name__ == "__main__":
    sys.exit(main())
