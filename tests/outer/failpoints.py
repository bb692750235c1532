#!/usr/bin/env python3
"""Kills a node between every two steps of the QoS 1 and QoS 2 flows, in both directions, and looks at what its clients get.

    cargo build --locked --package magpie-cli --bin magpie --features failpoints
    tests/outer/failpoints.py --magpie target/debug/magpie                          # one point of each phase of each flow
    tests/outer/failpoints.py --magpie target/debug/magpie --all                    # every point, on the client's node and on the leader
    tests/outer/failpoints.py --magpie target/debug/magpie --only "QoS 2 in"        # the points whose name has this in it

The binary is a test build: at an armed point it kills itself, as kill -9 would. Each point tells that it was hit, and the node must
be gone by that signal. The client then goes on, on whichever node is left, and has to come to the end of its flow: at QoS 2 exactly once
and with the packet id that it began with, at QoS 1 at least once.
"""

import argparse
import os
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from nodes import Cluster
from report import Failure, Suite, check, say, wait_until
from wire_client import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, SUBACK, Lost, Wire

PARTITIONS = 8
VARIABLE = "FAILPOINTS_FILE"
# First byte of the records that carry a step into a partition.
ATTACH, DETACH, SUBSCRIBE_RECORD, BIND, RECEIVED, RELEASE = 6, 7, 8, 10, 11, 13
BACK_WITHIN_S = 25
# How long a CONNACK waits for what another node hands over, and where one is asked.
CONFIRM_WITHIN_S = 0.5
ASKED = ("takeover", "DISCONNECT")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary, built with --features failpoints")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--all", action="store_true", help="every point")
    parser.add_argument("--only", default="", help="points whose name has this in it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite("failpoints", arguments.seed)
    if VARIABLE.encode() not in Path(arguments.magpie).read_bytes():
        suite.step("a test build", check, False, f"{arguments.magpie} has no fail points: build it with --features failpoints")
        return suite.end()
    made = Cluster(arguments.magpie)
    for node in made.nodes:
        node.points = node.directory.with_suffix(".points")
        node.environment[VARIABLE] = str(node.points)
    with made as cluster:
        field = Field(cluster, suite.random)
        for point in chosen(arguments, suite.random):
            suite.step(point.name, field.trial, point)
        for handover in handovers():
            if arguments.only in handover.name:
                suite.step(handover.name, handover.run, field)
        if arguments.only in REUSED:
            suite.step(REUSED, reuse, field)
    return suite.end()


REUSED = "a packet id whose PUBREC was lost, for another message in a new session"


def chosen(arguments, random):
    if arguments.only:
        return [point for point in points() if arguments.only in point.name]
    if arguments.all:
        return points()
    phases = {}
    for point in points():
        phases.setdefault((point.flow, point.phase), []).append(point)
    return [random.choice(of_phase) for of_phase in phases.values()]


class Point:
    """Where a node dies: at `step` of a flow, while the client is at `phase`; `about` makes the bytes that the hit is about."""

    def __init__(self, flow, phase, step, place, about=None, leader_elsewhere=False):
        self.flow, self.phase, self.step, self.place, self.about = flow, phase, step, place, about
        self.leader_elsewhere = leader_elsewhere
        where = "" if place == "client" else " on the leader, which is the client's node" if not leader_elsewhere else " on the leader"
        self.name = f"{flow.name}, {phase}: {step}{where}"


class Record:
    """A step that is made safe: it goes into a batch on the client's node, to the leader, to its disk, and is applied."""

    def __init__(self, kind=None):
        """Without a kind: a publish, which is known by its topic."""
        self.kind = kind

    def about(self, trial):
        if self.kind is None:
            return trial.topic.encode()
        name = trial.client.encode()
        return bytes((self.kind,)) + struct.pack("<H", len(name)) + name

    def partition(self, trial):
        return partition_of(trial.topic if self.kind is None else trial.client)


ON_LEADER = ("leader.taken", "log.encoded", "log.written", "log.synced", "applied")


def points():
    """Every point, flow by flow, in the order of the steps."""
    for flow in (InboundQos2, InboundQos1, OutboundQos2, OutboundQos1, Connecting, TakingOver, Subscribing):
        for phase, (steps, record) in flow.phases.items():
            before, after = steps
            for step in before:
                yield Point(flow, phase, step, "client")
            if record:
                yield Point(flow, phase, "stream.batched", "client", record)
                for elsewhere in (True, False):
                    # Where the leader is the client's node, the steps between are one process's as well: the first and the last will do.
                    for step in ON_LEADER if elsewhere else ("log.written", "applied"):
                        yield Point(flow, phase, step, "leader", record, leader_elsewhere=elsewhere)
            for step in after:
                yield Point(flow, phase, step, "client")


def leader_of(cluster, partition):
    for _ in range(200):
        for node in cluster.nodes:
            for group in node.status()["groups"]:
                if group["group"] == str(partition) and group["leading"]:
                    return node
        time.sleep(0.05)
    raise Failure(f"partition {partition} has no leader")


class Field:
    """The cluster that the points are tried on, one after the other."""

    def __init__(self, cluster, random):
        self.cluster, self.random, self.number = cluster, random, 0

    def trial(self, point):
        """Leaders move back to where they were before the last point; one that moves at the wrong time is tried again."""
        for attempt in range(3):
            self.cluster.wait_ready()
            self.number += 1
            trial = point.flow(self, point, self.number)
            try:
                trial.prepare()
                trial.run()
                trial.check_hit()
                return trial.verify()
            except NotHit:
                if attempt == 2:
                    raise
            finally:
                trial.end()


class NotHit(Failure):
    """The point was not come to."""


class Trial:
    """One flow with one point in it."""

    def __init__(self, field, point, number):
        self.field, self.point, self.cluster = field, point, field.cluster
        self.client, self.topic = f"client-{number:03}", f"topic/{number:03}"
        self.victim = None
        self.armed = False
        self.wire = None
        self.lost = 0
        self.observer = f"observer-{number:03}"

    def prepare(self):
        """Chooses the client's node and the one that dies, and makes the sessions."""
        nodes, point = self.cluster.nodes, self.point
        if point.place == "leader":
            leader = leader_of(self.cluster, point.about.partition(self))
            self.node = self.field.random.choice([node for node in nodes if (node is not leader) == point.leader_elsewhere])
        else:
            leader = None
            self.node = self.field.random.choice(nodes)
        self.victim = leader or self.node
        # Known before the fault, and offline.
        first = Wire(self.node, self.observer)
        first.subscribe(self.topic)
        first.expect(SUBACK)
        first.disconnect()

    def at(self, phase):
        """The client is about to begin a phase: arms the point if it is the one."""
        if phase != self.point.phase or self.armed:
            return
        self.armed = True
        if self.point.step.startswith("kill"):
            return
        if self.point.place == "leader" and leader_of(self.cluster, self.point.about.partition(self)) is not self.victim:
            raise NotHit("the leader has moved")
        about = self.point.about.about(self) if self.point.about else self.about()
        line = f"{self.point.step} {about.hex()} 1 kill\n"
        staged = self.victim.points.with_suffix(".staged")
        staged.write_text(line)
        staged.rename(self.victim.points)
        # The nodes look every 2 ms.
        time.sleep(0.03)

    def about(self):
        if self.point.step.startswith("progress"):
            return struct.pack("<H", partition_of(self.client))
        return self.client.encode()

    def came(self, phase):
        """The client has what a phase ends with: here is where a node dies that has written it."""
        if phase == self.point.phase and self.armed and self.point.step.startswith("kill") and self.victim.process.poll() is None:
            self.victim.kill()

    def check_hit(self):
        """The victim is dead, by the point."""
        self.wait_dead()
        check(self.victim.process.returncode == -signal.SIGKILL, f"{self.victim.name} ended with {self.victim.process.returncode}")
        mark = self.victim.points.with_name(self.victim.points.name + ".hit")
        if not self.point.step.startswith("kill"):
            check(mark.exists() and self.point.step in mark.read_text(), f"{self.point.step} was not hit")

    def wait_dead(self):
        try:
            wait_until("the node dies", 3, lambda: self.victim.process.poll() is not None)
        except Failure as error:
            raise NotHit(f"{self.victim.name} did not come to {self.point.step}") from error

    def connect(self, expected=True):
        """On some node that is alive, another one than before if there is one; as long as it takes."""
        until = time.monotonic() + BACK_WITHIN_S
        while True:
            nodes = [node for node in self.cluster.nodes if node.process.poll() is None]
            nodes = [node for node in nodes if node is not self.node] or nodes
            self.node = self.field.random.choice(nodes)
            try:
                self.wire = Wire(self.node, self.client)
            except Lost:
                check(time.monotonic() < until, f"{self.client} cannot come back within {BACK_WITHIN_S} s")
                time.sleep(0.1)
                continue
            self.lost += 1
            check(expected is None or self.wire.present == expected, f"session present {self.wire.present}, not {expected}")
            return

    def run(self):
        """Drives the flow to its end, over as many connections as it takes."""
        until = time.monotonic() + 2 * BACK_WITHIN_S
        while True:
            try:
                return self.go_on()
            except Lost:
                check(time.monotonic() < until, "the flow does not come to its end")
                self.wire.close()
                self.connect()

    def observed(self, owed, repeats=False):
        """What the observer gets: all that is owed, in this order, and once each unless repeats are allowed."""
        receiver = Receiver(self, self.observer)
        receiver.until(lambda got: set(owed) <= set(got))
        receiver.settle()
        got = [payload for payload in receiver.taken]
        first = list(dict.fromkeys(got))
        check(first == owed and (repeats or got == owed), f"the observer got {got}, owed was {owed}")

    def end(self):
        if self.wire:
            self.wire.close()
        for node in self.cluster.nodes:
            for left in (node.points, node.points.with_name(node.points.name + ".hit")):
                left.unlink(missing_ok=True)
            if node.process.poll() is not None:
                node.start()

    def verify(self):
        raise NotImplementedError

    def told(self):
        return f"{self.victim.name} died" + (f", the client came back {self.lost} times" if self.lost > 1 else "" if self.lost else ", the client stayed")


class InboundQos2(Trial):
    """PUBLISH, PUBREC, PUBREL, PUBCOMP from the client; then the same packet id once more, for another message."""

    name = "QoS 2 in"
    phases = {
        "publish": ((("read",), ("answer.published", "send", "kill after PUBREC")), Record()),
        "release": ((("read",), ("answer.released", "send", "kill after PUBCOMP")), Record(RELEASE)),
    }
    packet_id = 7

    def prepare(self):
        super().prepare()
        self.wire = Wire(self.node, self.client)
        self.state, self.sent = "publish", False
        self.payloads = [b"first", b"second"]
        self.turn = 0

    def go_on(self):
        while self.turn < len(self.payloads):
            if self.state == "publish":
                self.at("publish")
                dup, self.sent = self.sent, True
                self.wire.publish(self.topic, self.payloads[self.turn], 2, self.packet_id, dup)
                check(self.wire.expect(PUBREC).packet_id == self.packet_id, "PUBREC for another packet id")
                self.state = "release"
                self.came("publish")
            self.at("release")
            self.wire.acknowledge(PUBREL, self.packet_id)
            check(self.wire.expect(PUBCOMP).packet_id == self.packet_id, "PUBCOMP for another packet id")
            self.state, self.sent = "publish", False
            self.turn += 1
            self.came("release")

    def verify(self):
        self.observed(self.payloads)
        return self.told()


class InboundQos1(Trial):
    name = "QoS 1 in"
    phases = {"publish": ((("read",), ("answer.published", "send", "kill after PUBACK")), Record())}

    def prepare(self):
        super().prepare()
        self.wire = Wire(self.node, self.client)
        self.payloads = [b"first", b"second"]
        self.turn, self.sent = 0, False

    def go_on(self):
        while self.turn < len(self.payloads):
            self.at("publish")
            dup, self.sent = self.sent, True
            self.wire.publish(self.topic, self.payloads[self.turn], 1, self.turn + 1, dup)
            check(self.wire.expect(PUBACK).packet_id == self.turn + 1, "PUBACK for another packet id")
            self.turn, self.sent = self.turn + 1, False
            self.came("publish")

    def verify(self):
        self.observed(self.payloads, repeats=True)
        return self.told()


class Outbound(Trial):
    """A message to the client, whose session it is; another client publishes it, on a node that does not die."""

    qos = 2

    def prepare(self):
        super().prepare()
        self.wire = Wire(self.node, self.client)
        self.wire.subscribe(self.topic, self.qos)
        self.wire.expect(SUBACK)
        self.receiver = Receiver(self, self.client, self.wire)
        self.published = False

    def publish(self, payload):
        """By somebody else: until it is acknowledged, once at QoS 2."""
        other = next(node for node in self.cluster.nodes if node is not self.victim)
        name = f"publisher-{self.client}"
        wire, sent, acknowledged = None, False, False
        until = time.monotonic() + 2 * BACK_WITHIN_S
        while True:
            try:
                wire = wire or Wire(other, name)
                if not acknowledged:
                    dup, sent = sent, True
                    wire.publish(self.topic, payload, self.qos, 1, dup)
                    wire.expect(PUBACK if self.qos == 1 else PUBREC)
                    acknowledged = True
                if self.qos == 2:
                    wire.acknowledge(PUBREL, 1)
                    wire.expect(PUBCOMP)
                return wire.disconnect()
            except Lost:
                check(time.monotonic() < until, "the publisher does not get through")
                time.sleep(0.1)
                wire = None

    def go_on(self):
        if not self.published:
            self.at("deliver")
            self.published = True
            self.publish(b"first")
        self.receiver.wire = self.wire
        self.receiver.until(lambda got: b"first" in got and self.receiver.is_done())
        self.after_first()

    def after_first(self):
        if self.point.phase == "progress" and not self.armed:
            self.at("progress")
            if not self.point.step.startswith("kill"):
                self.wait_dead()

    def verify(self):
        if self.wire.node.process.poll() is not None:
            self.wire.close()
            self.connect()
            self.receiver.wire = self.wire
        self.publish(b"second")
        self.run_receiver(lambda got: b"second" in got and self.receiver.is_done())
        self.receiver.settle()
        got = self.receiver.taken
        if self.qos == 2:
            check(got == [b"first", b"second"], f"the client got {got}")
        else:
            check(list(dict.fromkeys(got)) == [b"first", b"second"], f"the client got {got}")
        self.observed([b"first", b"second"], repeats=self.qos == 1)
        return self.told()

    def run_receiver(self, done):
        while True:
            try:
                return self.receiver.until(done)
            except Lost:
                self.wire.close()
                self.connect()
                self.receiver.wire = self.wire


class OutboundQos2(Outbound):
    name = "QoS 2 out"
    phases = {
        "deliver": ((("deliver",), ("answer.stored", "send.publish", "kill after PUBLISH")), Record(BIND)),
        "received": ((("read",), ("answer.stored", "send", "kill after PUBREL")), Record(RECEIVED)),
        "complete": ((("read", "kill after PUBCOMP"), ()), None),
        "progress": ((("progress.composed", "progress.reported"), ()), None),
        "leave": ((("detach",), ()), Record(DETACH)),
    }


class OutboundQos1(Outbound):
    name = "QoS 1 out"
    qos = 1
    phases = {
        "deliver": ((("deliver", "send.publish", "kill after PUBLISH"), ()), None),
        "received": ((("read", "kill after PUBACK"), ()), None),
        "progress": ((("progress.composed", "progress.reported"), ()), None),
        "leave": ((("detach",), ()), Record(DETACH)),
    }


class Connecting(Outbound):
    """A client comes back with something in flight, on another node, and the answer to its CONNECT is lost."""

    name = "CONNECT"
    phases = {"connect": (((), ("answer.attached", "send", "kill after CONNACK")), Record(ATTACH))}
    keeps_open = False

    def go_on(self):
        if not self.published:
            self.published = True
            self.publish(b"first")
            # In flight, under its packet id, and known as sent.
            packet = self.wire.expect(PUBLISH)
            check(packet.payload == b"first" and not packet.dup, f"{packet}")
            self.receiver.note(packet)
            if self.keeps_open:
                self.left = self.wire
            else:
                self.wire.disconnect()
            self.at("connect")
            self.reconnect()
            self.came("connect")
        self.receiver.wire = self.wire
        self.receiver.until(lambda got: b"first" in got and self.receiver.is_done())

    def reconnect(self):
        """Once, on the node that the point is about."""
        place = self.point.place
        if place == "client":
            self.node = self.victim
        elif self.point.leader_elsewhere:
            self.node = self.field.random.choice([node for node in self.cluster.nodes if node is not self.victim])
        else:
            self.node = self.victim
        try:
            self.wire = Wire(self.node, self.client)
            check(self.wire.present, "session present 0")
        except Lost:
            self.connect()


class TakingOver(Connecting):
    """The same, while the old connection still lives on another node, and hands over."""

    name = "takeover"
    phases = {
        "connect": (((), ("answer.attached", "send", "kill after CONNACK")), Record(ATTACH)),
        "hand over": ((("detach",), ()), Record(DETACH)),
    }
    keeps_open = True

    def prepare(self):
        super().prepare()
        if self.point.phase == "connect" and self.point.place == "client":
            # The old connection is elsewhere than on the node that is to die.
            self.victim = self.field.random.choice([node for node in self.cluster.nodes if node is not self.node])

    def reconnect(self):
        if self.point.phase == "hand over":
            self.at("hand over")
            others = [node for node in self.cluster.nodes if node not in (self.node, self.victim)]
            self.node = self.field.random.choice(others)
            try:
                self.wire = Wire(self.node, self.client)
                check(self.wire.present, "session present 0")
            except Lost:
                self.connect()
        else:
            super().reconnect()


class Subscribing(Outbound):
    """SUBSCRIBE: what comes after SUBACK is delivered; without SUBACK the client asks again."""

    name = "SUBSCRIBE"
    phases = {"subscribe": ((("read",), ("send", "kill after SUBACK")), Record(SUBSCRIBE_RECORD))}

    def prepare(self):
        Trial.prepare(self)
        self.wire = Wire(self.node, self.client)
        self.receiver = Receiver(self, self.client, self.wire)
        self.published = self.subscribed = False

    def go_on(self):
        if not self.subscribed:
            self.at("subscribe")
            self.wire.subscribe(self.topic)
            self.wire.expect(SUBACK)
            self.subscribed = True
            self.came("subscribe")
        super().go_on()


class Receiver:
    """Takes messages as a client has to: at QoS 2 by packet id, from PUBLISH to PUBCOMP, across connections."""

    def __init__(self, trial, client, wire=None):
        self.trial, self.client, self.wire = trial, client, wire
        self.open = {}  # packet id -> payload, from PUBLISH to PUBREL
        self.begun = {}  # payload -> packet id, of QoS 2
        self.taken = []
        self.own = wire is None

    def is_done(self):
        return not self.open

    def note(self, packet):
        """A PUBLISH: a new message, or the same again."""
        if packet.qos != 2:
            self.taken.append(packet.payload)
            return
        known = self.open.get(packet.packet_id)
        check(known in (None, packet.payload), f"{self.client}: packet id {packet.packet_id} was {known}, is {packet.payload}")
        if known is None:
            before = self.begun.get(packet.payload)
            check(before is None, f"{self.client}: {packet.payload} under packet id {packet.packet_id}, before under {before}")
            self.begun[packet.payload] = packet.packet_id
            self.open[packet.packet_id] = packet.payload
            self.taken.append(packet.payload)
        else:
            check(packet.dup, f"{self.client}: {packet.payload} again without DUP")

    def until(self, done):
        """Takes what comes until this is true of all that was taken."""
        until = time.monotonic() + 2 * BACK_WITHIN_S
        while not done(self.taken):
            check(time.monotonic() < until, f"{self.client} got {self.taken} and no more, open is {self.open}")
            self.step(1)

    def settle(self):
        """What comes once more comes now."""
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            self.step(0.3)
        if self.own:
            self.wire.disconnect()

    def step(self, seconds):
        try:
            if self.wire is None:
                nodes = [node for node in self.trial.cluster.nodes if node.process.poll() is None]
                self.wire = Wire(self.trial.field.random.choice(nodes), self.client)
            self.take(self.wire.take(seconds))
        except TimeoutError:
            pass
        except Lost:
            if not self.own:
                raise
            self.wire = None
            time.sleep(0.1)

    def take(self, packet):
        mine = not self.own
        if packet.kind == PUBLISH:
            self.note(packet)
            if mine:
                self.trial.came("deliver")
                self.leave()
                self.trial.at("received")
            self.wire.acknowledge(PUBACK if packet.qos == 1 else PUBREC, packet.packet_id)
            if mine and packet.qos == 1:
                self.trial.came("received")
        elif packet.kind == PUBREL:
            self.open.pop(packet.packet_id, None)
            if mine:
                self.trial.came("received")
                self.trial.at("complete")
            self.wire.acknowledge(PUBCOMP, packet.packet_id)
            if mine:
                self.trial.came("complete")
        else:
            raise Failure(f"{self.client}: {packet}")

    def leave(self):
        """In order, with the message unacknowledged: it has to come again under its packet id, with DUP."""
        trial = self.trial
        if trial.point.phase == "leave" and not trial.armed:
            trial.at("leave")
            self.wire.disconnect()
            raise Lost("took leave")


class Handover:
    """Nobody dies, or the node does that told all to the others: what was sent and not acknowledged comes again on another node, with DUP and the packet id that it had."""

    def __init__(self, qos, way, is_received=False, unsubscribes=False):
        """Received: the client has sent PUBREC and seen PUBREL. What is in flight is completed also if the client unsubscribes [MQTT-3.10.4-3]."""
        self.qos, self.way, self.is_received, self.unsubscribes = qos, way, is_received, unsubscribes
        self.name = f"QoS {qos} out, {'received' if is_received else 'in flight'}{', UNSUBSCRIBE' if unsubscribes else ''}: {way}"

    def run(self, field):
        """Again if CONNACK took so long that it no longer waited for the node that was to hand over, which stood still perhaps."""
        for attempt in range(3):
            field.cluster.wait_ready()
            field.number += 1
            self.connected_after = 0
            try:
                self.try_once(field)
                return f"at attempt {attempt + 1}" if attempt else None
            except Failure as error:
                is_late = self.way in ASKED and self.connected_after >= CONFIRM_WITHIN_S
                if attempt == 2 or not is_late:
                    raise
                say(f"       CONNACK after {self.connected_after:.1f} s: {error}")

    def try_once(self, field):
        client, topic = f"client-{field.number:03}", f"topic/{field.number:03}"
        old, new = field.random.sample(field.cluster.nodes, 2)
        wire = Wire(old, client)
        wire.subscribe(topic, self.qos)
        wire.expect(SUBACK)
        # The first one is completed, so that the ids do not begin with 1.
        payloads = [b"zero", b"one", b"two", b"three"]
        came = {}
        publisher = Wire(new, f"publisher-{client}", clean=True)
        for number, payload in enumerate(payloads):
            publish(publisher, topic, payload, self.qos, number + 1)
            packet = wire.expect(PUBLISH)
            check(packet.payload == payload and not packet.dup, f"{packet} in place of {payload}")
            came[payload] = packet.packet_id
            if payload == b"zero":
                self.complete(wire, packet.packet_id)
            elif self.is_received:
                wire.acknowledge(PUBREC, packet.packet_id)
                wire.expect(PUBREL)
        publisher.disconnect()
        if self.unsubscribes:
            wire.unsubscribe(topic)
        if self.way == "drain":
            old.stop()
        elif self.way == "kill -9":
            old.kill()
        elif self.way == "DISCONNECT":
            wire.disconnect()
        began = time.monotonic()
        try:
            again = patient(new, client)
            self.connected_after = time.monotonic() - began
            check(again.present, "session present 0")
            for payload in payloads[1:]:
                packet = again.expect(PUBREL if self.is_received else PUBLISH, besides=self.completed_again(came[b"zero"]))
                expected = (None, came[payload], None) if self.is_received else (payload, came[payload], True)
                check((packet.payload, packet.packet_id, packet.dup) == expected, f"{packet}, expected was {expected}")
            for payload in payloads[1:]:
                if self.is_received:
                    again.acknowledge(PUBCOMP, came[payload])
                else:
                    self.complete(again, came[payload])
            again.disconnect()
            wire.close()
        finally:
            if old.process.poll() is not None:
                old.start()

    def completed_again(self, packet_id):
        """After a death, the end of what was completed in the last second may come again."""
        return packet_id if self.way == "kill -9" and self.qos == 2 else None

    def complete(self, wire, packet_id):
        if self.qos == 1:
            return wire.acknowledge(PUBACK, packet_id)
        wire.acknowledge(PUBREC, packet_id)
        check(wire.expect(PUBREL).packet_id == packet_id, "PUBREL for another packet id")
        wire.acknowledge(PUBCOMP, packet_id)


def patient(node, client):
    """As `Wire`, while the others elect leaders."""
    until = time.monotonic() + BACK_WITHIN_S
    while True:
        try:
            return Wire(node, client)
        except Lost:
            check(time.monotonic() < until, f"{client} is not let in")
            time.sleep(0.1)


def handovers():
    yield Handover(1, "kill -9", unsubscribes=True)
    yield Handover(2, "kill -9", unsubscribes=True)
    yield Handover(2, "kill -9")
    yield Handover(2, "kill -9", is_received=True)
    for way in ("takeover", "DISCONNECT", "drain"):
        yield Handover(1, way)
        yield Handover(2, way)
        yield Handover(2, way, is_received=True)
        yield Handover(1, way, unsubscribes=True)


def publish(wire, topic, payload, qos, packet_id):
    """To the end."""
    wire.publish(topic, payload, qos, packet_id)
    wire.expect(PUBACK if qos == 1 else PUBREC)
    if qos == 2:
        wire.acknowledge(PUBREL, packet_id)
        wire.expect(PUBCOMP)


def reuse(field):
    """The first message was taken and its PUBREC did not come. In a new session, on another node, its packet id is another message's."""
    field.cluster.wait_ready()
    field.number += 1
    client, topic = f"client-{field.number:03}", f"topic/{field.number:03}"
    node, *others = field.random.sample(field.cluster.nodes, 3)
    observer = Wire(others[0], f"observer-{client}")
    observer.subscribe(topic)
    observer.expect(SUBACK)
    first = Wire(node, client)
    first.publish(topic, b"first", 2, 9)
    packet = observer.expect(PUBLISH)
    check(packet.payload == b"first", f"{packet}")
    # PUBREC is on its way, and nobody reads it.
    first.close()
    begun = Wire(others[1], client, clean=True)
    begun.disconnect()
    second = Wire(others[1], client)
    check(not second.present, "session present 1 after a clean one")
    publish(second, topic, b"second", 2, 9)
    packet = observer.expect(PUBLISH)
    check(packet.payload == b"second", f"{packet} in place of the second message")
    # The same id once more, after its release.
    publish(second, topic, b"third", 2, 9)
    packet = observer.expect(PUBLISH)
    check(packet.payload == b"third", f"{packet} in place of the third message")
    second.disconnect()
    observer.close()


def partition_of(key):
    """As the nodes do it."""
    value = 0xCBF29CE484222325
    for byte in key.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return ((value ^ value >> 32) * 0x9E3779B97F4A7C15 % (1 << 64) >> 32) % PARTITIONS


if __name__ == "__main__":
    sys.exit(main())
