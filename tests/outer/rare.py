#!/usr/bin/env python3
"""Faults that come seldom, each on a cluster of its own: a clock that is a day ahead, a slow disk, full disks, a snapshot while clients are
attached, CONNECTs that race, SUBSCRIBEs that race with retained messages, and bugs that panic.

    cargo build --locked --package magpie-cli --bin magpie --features failpoints
    tests/outer/rare.py --magpie target/debug/magpie [--only "full disk"]
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as paho

import disks
from clients import Paho, PahoClient, properties
from failpoints import VARIABLE, leader_of, partition_of, publish
from nodes import Cluster
from report import Failure, Suite, check, wait_until
from wire_client import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, Lost, Wire

DAY_S = 86_400


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary, built with --features failpoints")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite("rare", arguments.seed)
    suite.magpie = arguments.magpie
    if VARIABLE.encode() not in Path(arguments.magpie).read_bytes():
        suite.step("a test build", check, False, f"{arguments.magpie} has no fail points: build it with --features failpoints")
        return suite.end()
    for name, fault in FAULTS.items():
        if arguments.only in name:
            suite.step(name, fault, suite)
    return suite.end()


@contextlib.contextmanager
def cluster_of(suite, settings=(), clock_ahead_of=None):
    """Three nodes with these settings, ready but for the one whose clock is wrong."""
    cluster = Cluster(suite.magpie)
    for node in cluster.nodes:
        node.points = node.directory.with_suffix(".points")
        node.environment = {VARIABLE: str(node.points), **dict(settings)}
    wrong = None if clock_ahead_of is None else cluster.nodes[clock_ahead_of]
    if wrong:
        wrong.environment["CLOCK_AHEAD_S"] = str(DAY_S)
    try:
        for node in cluster.nodes:
            node.start()
        right = [node for node in cluster.nodes if node is not wrong]
        wait_until("the nodes are ready", 60, lambda: all(node.is_ready() for node in right))
        yield cluster
    finally:
        cluster.__exit__(None, None, None)


def key_led_by(cluster, node, prefix):
    """A client id or topic whose partition this node leads."""
    for number in range(200):
        key = f"{prefix}{number}"
        if leader_of(cluster, partition_of(key)) is node:
            return key
    raise Failure(f"{node.name} leads nothing")


def clock(suite):
    """The leader's clock is a day ahead: it says so, and nothing that waits for time to pass comes early."""
    with cluster_of(suite, clock_ahead_of=0) as cluster:
        wrong, one, other = cluster.nodes
        wait_until("the wrong clock is seen", 20, lambda: wrong.readiness()[0] == 503 and "clock" in wrong.readiness()[1])
        wait_until("it leads something", 30, lambda: any(group["leading"] for group in wrong.status()["groups"] if group["group"] != "control"))
        sleeper, short, mortal = (key_led_by(cluster, wrong, prefix) for prefix in ("sleeper", "short", "mortal"))
        topic = key_led_by(cluster, wrong, "kept")

        def connect(node, name, expiry_s, clean=False):
            return Paho(node.mqtt, 5, name, connect_properties=properties("CONNECT", SessionExpiryInterval=expiry_s), clean=clean)

        watcher = connect(one, "watcher", 60)
        watcher.subscribe((f"will/{mortal}", 1))
        for name, expiry_s in ((sleeper, 60), (short, 3)):
            client = connect(one, name, expiry_s)
            client.subscribe((topic, 1))
            client.close()
        asleep = time.monotonic()
        message = properties("PUBLISH", MessageExpiryInterval=3600)
        publisher = connect(other, "publisher", 0)
        publisher.publish(topic, b"hour", 1, retain=True, props=message)
        # A will with a delay of 4 seconds.
        vanish(one, mortal, f"will/{mortal}", 4)
        died = time.monotonic()
        fresh = connect(other, "fresh", 0)
        fresh.subscribe((topic, 1))
        check([kept.payload for kept in fresh.take(1)] == [b"hour"], "the retained message is not there")
        came = watcher.take(1)
        after = time.monotonic() - died
        check(came[0].payload == b"gone" and after >= 4, f"the will came after {after:.2f} s")
        time.sleep(max(0.0, asleep + 12 - time.monotonic()))
        # An expiry of 3 s is over, one of 60 s is not.
        for name, expected in ((sleeper, True), (short, False)):
            client = connect(other, name, 60)
            check(client.connack[2].session_present == expected, f"{name}: session present {client.connack[2].session_present}")
            if expected:
                check([got.payload for got in client.take(1)] == [b"hour"], "the message that waited is gone")
            client.close()
        check(wrong.readiness()[0] == 503, "ready in spite of its clock")
        return f"the will came after {after:.1f} s; {wrong.readiness()[1].strip()}"


def vanish(node, name, topic, delay_s):
    """A client with a will that is to come so late, and that is gone without a word."""
    client = PahoClient(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
    client.will_set(topic, b"gone", 1, properties=properties("WILLMESSAGE", WillDelayInterval=delay_s))
    connack = []
    client.on_connect = lambda *_: connack.append(1)
    client.connect(node.host, node.mqtt, properties=properties("CONNECT", SessionExpiryInterval=60))
    while not connack:
        client.loop(0.05)
    client.socket().close()


class Load(threading.Thread):
    """Publishes at QoS 1, one message after the other, to topics of all partitions; comes back when it is cut off."""

    def __init__(self, node, name, payload_bytes=100):
        super().__init__(daemon=True)
        self.node, self.client, self.payload_bytes = node, name, payload_bytes
        self.acknowledged, self.times, self.stopping, self.error = [], [], False, None
        self.start()

    def run(self):
        wire, number = None, 0
        try:
            while not self.stopping:
                try:
                    wire = wire or Wire(self.node, self.client, clean=True)
                    payload = f"{self.client} {number} ".encode().ljust(self.payload_bytes, b"x")
                    wire.publish(f"load/{number % 16}", payload, 1, 1)
                    wire.expect(PUBACK, 15)
                    self.acknowledged.append(f"{self.client} {number}")
                    self.times.append(time.monotonic())
                except Lost:
                    wire = None
                    time.sleep(0.1)
                number += 1
        except Exception as error:  # noqa: BLE001 - told by end()
            self.error = error

    def end(self):
        self.stopping = True
        self.join(20)
        if self.error:
            raise self.error
        return self.acknowledged

    def longest_gap(self, since, until):
        times = [since, *(at for at in self.times if since < at < until), until]
        return max(after - before for before, after in zip(times, times[1:]))


def key_of(payload):
    client, number = payload.split(b" ")[:2]
    return f"{client.decode()} {number.decode()}"


def attach(node, name, clean=False):
    """A client that is subscribed to the load."""
    wire = Wire(node, name, clean=clean)
    wire.subscribe("load/#", 1)
    wire.expect(SUBACK)
    return wire


def sleep_from(node):
    """A session that is subscribed to the load, and away."""
    attach(node, "sleeping").disconnect()


def take_owed(wire, owed, got, seconds=15):
    """Takes and acknowledges what comes until `got` has everything that was acknowledged; TimeoutError if nothing comes for so long."""
    while owed - got:
        packet = wire.take(seconds)
        got.add(key_of(packet.payload))
        wire.acknowledge(PUBACK, packet.packet_id)


def tell_late(wire, owed, got, error):
    """Whether what is missing is lost or late: waits a minute more, and asks the node how far the session is."""
    missing = owed - got
    session = wire.node.session(wire.client_id)
    until = time.monotonic() + 60
    with contextlib.suppress(TimeoutError, Lost):
        while owed - got and time.monotonic() < until:
            take_owed(wire, owed, got, until - time.monotonic())
    late = len(missing & got)
    raise Failure(
        f"{wire.client_id} got nothing for 15 s, and {len(missing)} of {len(owed)} acknowledged messages are missing: {sorted(missing)[:3]}; "
        f"of these {late} came within a minute more, {len(missing) - late} did not; then its session was: {session}; "
        f"and now: {wire.node.session(wire.client_id)}"
    ) from error


def check_wakes(node, owed, client="sleeping", got=()):
    """It comes back, and gets everything that was acknowledged, and that it has not got yet."""
    wire, got = Wire(node, client), set(got)
    try:
        take_owed(wire, owed, got)
    except TimeoutError as error:
        tell_late(wire, owed, got, error)
    wire.close()


def slow_disk(suite):
    """Each sync of one node, which leads its share, takes a third of a second for a while."""
    with cluster_of(suite) as cluster:
        slow, *others = cluster.nodes
        sleep_from(others[0])
        loads = [Load(node, f"load-{number}") for number, node in enumerate(cluster.nodes * 2)]
        time.sleep(2)
        terms = {group["group"]: group["term"] for group in slow.status()["groups"]}
        slow.points.write_text("log.written - 1 sleep 300\n")
        since = time.monotonic()
        time.sleep(10)
        until = time.monotonic()
        hit = slow.points.with_name(slow.points.name + ".hit")
        check(hit.exists(), "the disk was not slow")
        slow.points.unlink()
        now = {group["group"]: group["term"] for group in slow.status()["groups"]}
        time.sleep(2)
        owed = set().union(*(load.end() for load in loads))
        during = sum(since < at < until for load in loads for at in load.times)
        gap = max(load.longest_gap(since, until) for load in loads)
        check(during > 0 and gap < 10, f"{during} acknowledged meanwhile, the longest gap was {gap:.1f} s")
        check_wakes(others[1], owed)
        elections = sum(now[group] - term for group, term in terms.items())
        return f"{during} acknowledged in {until - since:.0f} s, longest gap {gap:.1f} s, {elections} changes of leaders, {len(owed)} all delivered"


def full_disk(suite):
    """The disks of all nodes fill up: publishes are refused, what was taken stays, and when there is room it goes on."""
    if why_not := disks.why_not():
        return f"not made: {why_not}"
    cluster = Cluster(suite.magpie)
    with cluster.keeping_home(), disks.Disks(cluster, image_bytes=1 << 30) as own:
        with cluster:
            sleep_from(cluster.nodes[0])
            load = Load(cluster.nodes[1], "before")
            time.sleep(1)
            owed = set(load.end())
            ballast = [disk.mount_point / "ballast" for disk in own.by_node.values()]
            for path in ballast:
                free = os.statvfs(path.parent)
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (8 << 20))
            space = lambda: [node.status()["log"]["space"] for node in cluster.nodes]  # noqa: E731
            load = Load(cluster.nodes[1], "while", payload_bytes=200_000)
            told = wait_until("all disks are full", 60, lambda: all(one != "ok" for one in space()), every=0.2)
            publisher = Paho(cluster.nodes[2].mqtt, 5, "refused")
            refused = wait_until("a publish is refused", 20, lambda: publisher.publish("load/1", b"refused 0 ", 1) == 0x97, every=0.2)
            owed |= set(load.end())
            full = space()
            alive = [node.name for node in cluster.nodes if node.process.poll() is None]
            check(len(alive) == 3, f"only {alive} are alive")
            for path in ballast:
                path.unlink()
            wait_until("there is room", 30, lambda: all(one == "ok" for one in space()), every=0.2)
            cluster.wait_ready()
            load = Load(cluster.nodes[0], "after")
            wait_until("publishes are taken again", 20, lambda: len(load.acknowledged) > 20)
            owed |= set(load.end())
            check_wakes(cluster.nodes[2], owed)
            return f"full after {told:.1f} s ({', '.join(full)}), 0x97 after {refused:.1f} s more; {len(owed)} acknowledged, all delivered"


def racing_connects(suite):
    """One client connects on all nodes at once, again and again: one connection is left, and its session knows no double."""
    with cluster_of(suite) as cluster:
        client, topic = "racing", "racing/inbox"
        first = Wire(cluster.nodes[0], client)
        first.subscribe(topic, 2)
        first.expect(SUBACK)
        first.disconnect()
        publisher = Wire(cluster.nodes[1], "racing-publisher", clean=True)
        seen, lefts = [], []
        for turn in range(12):
            publish(publisher, topic, f"{turn}".encode(), 2, 1)
            wires, threads = [], []

            def connect(node):
                try:
                    wires.append(Wire(node, client))
                except Lost:
                    pass

            for node in suite.random.sample(cluster.nodes * 2, 4):
                threads.append(threading.Thread(target=connect, args=(node,)))
                threads[-1].start()
                time.sleep(suite.random.uniform(0, 0.02))
            for thread in threads:
                thread.join(30)
            check(all(wire.present for wire in wires), "session present 0")
            time.sleep(0.3)
            # A node that stands still closes what was taken over when it goes on.
            wait_until("at most one connection is left", 10, lambda: sum(map(is_alive, wires)) <= 1)
            alive = [wire for wire in wires if is_alive(wire)]
            lefts.append(len(alive))
            for wire in wires:
                wire.close()
        # Whatever was begun on the way comes to its end, with its id.
        last = Wire(cluster.nodes[2], client)
        check(last.present, "session present 0")
        publish(publisher, topic, b"last", 2, 1)
        open_ids = {}
        until = time.monotonic() + 20
        while b"last" not in seen or open_ids:
            check(time.monotonic() < until, f"{seen} and no more, open is {open_ids}")
            with contextlib.suppress(TimeoutError):
                receive(last, seen, open_ids, last.take(1))
        check(seen == [str(turn).encode() for turn in range(12)] + [b"last"], f"got {seen}")
        return f"{sum(lefts)} of 12 races left a connection, the others none"


def is_alive(wire):
    """What came is left unacknowledged."""
    try:
        while True:
            wire.take(0.2)
    except TimeoutError:
        return True
    except Lost:
        return False


def receive(wire, seen, open_ids, packet):
    """At QoS 2, as a client that had forgotten nothing."""
    if packet.kind == PUBLISH:
        if packet.packet_id not in open_ids:
            open_ids[packet.packet_id] = packet.payload
            seen.append(packet.payload)
        wire.acknowledge(PUBREC, packet.packet_id)
    elif packet.kind == PUBREL:
        open_ids.pop(packet.packet_id, None)
        wire.acknowledge(PUBCOMP, packet.packet_id)


def racing_retained(suite):
    """A retained message is set over and over; who subscribes meanwhile gets the one that is kept, unless the next one has taken its place
    already, and then every later one, none twice."""
    with cluster_of(suite) as cluster:
        stopping, error = threading.Event(), []

        def write():
            try:
                wire, number = Wire(cluster.nodes[0], "writer", clean=True), 0
                while not stopping.is_set():
                    wire.publish("state", str(number).encode(), 1, 1, retain=True)
                    wire.expect(PUBACK)
                    number += 1
            except Exception as failure:  # noqa: BLE001 - told below
                error.append(failure)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        time.sleep(0.5)
        kept = 0
        for turn in range(20):
            wire = Wire(suite.random.choice(cluster.nodes), f"reader-{turn}", clean=turn % 2 == 0)
            wire.subscribe(suite.random.choice(("state", "+", "#")), 1)
            wire.expect(SUBACK)
            got = []
            while len(got) < 6:
                packet = wire.expect(PUBLISH)
                wire.acknowledge(PUBACK, packet.packet_id)
                got.append((int(packet.payload), packet.retain))
            wire.close()
            first = got[0][0]
            numbers, flags = zip(*got)
            check(list(numbers) == list(range(first, first + len(got))) and not any(flags[1:]), f"reader {turn} got {got}")
            kept += flags[0]
        stopping.set()
        thread.join(15)
        check(not error, f"the writer failed: {error}")
        check(kept > 8, f"only {kept} of 20 got what was kept")
        return f"{kept} of 20 got what was kept, the others what took its place"


def snapshot(suite):
    """A node stands still until the log has gone on without it. Its clean subscribers get all or are told to go, once a snapshot came; its
    sessions that last get all, at once or when they are back."""
    settings = {"MAGPIE_CLUSTER__LOG_RETAIN": "1s", "MAGPIE_CLUSTER__LOG_RETAIN_BYTES": "64KiB", "MAGPIE_CLUSTER__DOWN_AFTER": "60s"}
    with cluster_of(suite, settings=settings) as cluster:
        behind, one, other = cluster.nodes
        clean, durable, reading = attach(behind, "clean", clean=True), attach(behind, "sleeping"), attach(behind, "reading")
        # A mark, and nothing else.
        behind.points.write_text("snapshot.installed - 1 sleep 0\n")
        time.sleep(0.1)
        behind.signal(signal.SIGSTOP)
        loads = [Load(node, f"load-{number}", payload_bytes=20_000) for number, node in enumerate((one, other) * 2)]
        time.sleep(14)
        owed = set().union(*(load.end() for load in loads))
        behind.signal(signal.SIGCONT)
        mark = behind.points.with_name(behind.points.name + ".hit")
        took = wait_until("a snapshot is installed", 60, mark.exists)
        how = []
        for wire in (clean, reading):
            got = set()
            try:
                take_owed(wire, owed, got)
                how.append("got all of them")
            except Lost:
                how.append(f"was closed after {len(got)} of them")
            except TimeoutError as error:
                tell_late(wire, owed, got, error)
            wire.close()
        durable.close()
        cluster.wait_ready()
        check_wakes(behind, owed)
        check_wakes(behind, owed, "reading", got)
        return f"a snapshot after {took:.1f} s; of {len(owed)} messages the clean subscriber {how[0]}, a session that lasts {how[1]}"


def panics(suite):
    """At one point after the other a node has a bug that panics: it is gone at once, or serves as before; it never stays and serves nobody."""
    ended = []
    with cluster_of(suite) as cluster:
        bad, *others = cluster.nodes
        sleep_from(others[0])
        loads = [Load(node, f"load-{number}") for number, node in enumerate(others)]
        for number, point in enumerate(PANICS):
            client = f"unlucky-{number}"
            about = client if point in OF_CONNECTION else "panic/"
            bad.points.write_text(f"{point} {about.encode().hex()} 1 panic\n")
            mark = bad.points.with_name(bad.points.name + ".hit")

            def is_hit(mark=mark, client=client):
                """The node may not have seen yet what is wanted: it is talked to again."""
                time.sleep(0.1)
                with contextlib.suppress(Lost, Failure):
                    talk(bad, client)
                return mark.exists()

            wait_until(f"{point} is hit", 30, is_hit)
            mark.unlink()
            try:
                wait_until("the process ends", 5, lambda: bad.process.poll() is not None)
            except Failure:
                # It lives, so it must serve.
                talk(bad, f"{client}-after")
                continue
            check(bad.process.returncode == BUG, f"{point}: ended with {bad.process.returncode}\n{bad.log_tail()}")
            check(f"fail point {point}" in bad.log.read_text(errors="replace"), f"{point}: the log does not tell of it")
            ended.append(point)
            bad.start()
            cluster.wait_ready()
            talk(bad, f"{client}-after")
        owed = set().union(*(load.end() for load in loads))
        check_wakes(bad, owed)
    lived = [point for point in PANICS if point not in ended]
    return f"the process ended at {', '.join(ended)}" + (f", went on after {', '.join(lived)}" if lived else "") + f"; {len(owed)} acknowledged beside it, all delivered"


# The exit code of a node that stopped itself for a bug.
BUG = 70
# In the task of a connection, and in those that all share.
OF_CONNECTION = ("read", "answer.attached", "answer.published", "deliver", "send.publish", "detach")
PANICS = (*OF_CONNECTION, "stream.batched", "log.written")


def talk(node, client):
    """A client comes, publishes to itself, gets that, and goes."""
    wire = Wire(node, client)
    try:
        wire.subscribe(f"panic/{client}", 1)
        wire.expect(SUBACK)
        wire.publish(f"panic/{client}", b"hello", 1, 1)
        packets = [wire.take(12), wire.take(12)]
        check(sorted(packet.kind for packet in packets) == [PUBLISH, PUBACK], f"{client} got {packets}")
        wire.acknowledge(PUBACK, next(packet.packet_id for packet in packets if packet.kind == PUBLISH))
        wire.disconnect()
    except TimeoutError:
        raise Failure(f"{client} is not served") from None
    finally:
        wire.close()


FAULTS = {
    "the leader's clock is a day ahead": clock,
    "a slow disk": slow_disk,
    "full disks on all nodes": full_disk,
    "CONNECTs of one client that race on all nodes": racing_connects,
    "SUBSCRIBEs that race with newer retained messages": racing_retained,
    "a snapshot while clean subscribers are attached": snapshot,
    "bugs that panic": panics,
}


if __name__ == "__main__":
    sys.exit(main())
