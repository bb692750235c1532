#!/usr/bin/env python3
"""Real clients on different nodes talk to each other, in every combination of library, version, node and QoS, over every transport.

    tests/outer/interop.py --magpie target/release/magpie [--transports tcp,tls,ws,wss] [--only "share groups"]

Over TCP on the nodes of `magpie dev`. Over WebSocket, MQTT.js in headless Chromium is one of the libraries.
"""

import argparse
import contextlib
import signal
import struct
import sys
import time
from collections import Counter

from paho.mqtt.subscribeoptions import SubscribeOptions

from clients import ANSWER_S, MosquittoSub, MqttJs, Paho, mosquitto_pub, properties
from doors import TRANSPORTS, Door, Doors
from nodes import Dev
from report import Failure, Suite, check, wait_until

QOS = (0, 1, 2)
VERSIONS = (4, 5)
# The direct class, which is QoS 0, promises that a subscription is known on the other nodes 200 ms after it was asked for, or
# with the SUBACK, whichever is first; so does every suite that publishes QoS 0 on one node and expects it on another. A node that
# stands still knows it later.
ROUTES_KNOWN_S = 3.0
# Clients here do not come back by themselves: nodes do not let them go for a machine that stands still for a moment. Those of `dev` take
# no settings from outside.
PATIENT = {"MAGPIE_CLUSTER__QUORUM_LOST_AFTER": "10s", "MAGPIE_CLUSTER__DOWN_AFTER": "60s"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--transports", default=",".join(TRANSPORTS), help="default: all")
    parser.add_argument("--only", default="", help="steps whose name has this in it")
    arguments = parser.parse_args()
    # Nodes do not outlive this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    transports = arguments.transports.split(",")
    suite = Suite("interop", arguments.seed)
    if "tcp" in transports:
        dev = Dev(arguments.magpie)
        if not suite.step("magpie dev starts three nodes", lambda: dev.__enter__() and None):
            return suite.end()
        try:
            steps(suite, dev, "", arguments.only)
            suite.step("magpie dev stops cleanly", lambda: f"{dev.stop():.1f} s")
        finally:
            dev.__exit__(None, None, None)
    others = [transport for transport in transports if transport != "tcp"]
    if others:
        doors = Doors(arguments.magpie, others)
        for node in doors.cluster.nodes:
            node.environment = PATIENT
        if not suite.step(f"three nodes start, with {', '.join(others)}", lambda: doors.__enter__() and None):
            return suite.end()
        try:
            for transport in others:
                steps(suite, doors.through(transport), f"{transport}: ", arguments.only)
            suite.step("one client on each transport", mixed, doors, others)
            suite.step("the nodes stop cleanly", lambda: f"{doors.stop():.1f} s")
        finally:
            doors.__exit__(None, None, None)
    return suite.end()


def steps(suite, dev, over, only):
    """All of them, on the doors of one transport."""
    def step(name, function, *arguments):
        if only in over + name:
            suite.step(over + name, function, dev, *arguments)

    step("every library, version, QoS and filter, all ordered pairs of nodes", everybody_to_everybody)
    step("a subscription's QoS is the most that is delivered", downgrade)
    for version in VERSIONS:
        for qos in QOS:
            step(f"order of 1000 pipelined, version {version}, QoS {qos}", order_of_1000, version, qos)
    if over:
        step("MQTT.js: order of 1000 pipelined, and 250 kB of payload", order_and_size, False)
    if Door.of(dev.mqtt[0]).is_websocket:
        step("MQTT.js in Chromium: order of 1000 pipelined, and 250 kB of payload", order_and_size, True)
    step("250 kB of payload, all ordered pairs", large_payload, suite.random)
    for qos in QOS:
        step(f"share groups, QoS {qos}: each message to one member", share_groups, qos)
    step("a newer connection takes over from another node", takeover)
    for version in VERSIONS:
        step(f"subscribe, then publish at once, 300 rounds, version {version}", subscribe_then_publish, version)
    step("unsubscribe ends the messages", unsubscribe)
    step("user properties, response topic, correlation data, content type", request_and_response)
    step("message expiry goes down, or the message ends", message_expiry)
    step("topic alias", topic_alias)
    step("subscription identifiers", subscription_ids)
    step("no local", no_local)
    step("sessions and retained messages", sessions_and_retained)
    step("the will of a connection that breaks", will)


def everybody_to_everybody(dev):
    """Three kinds of subscribers in two versions on three nodes; as many publishers; each message reaches each subscriber once."""
    filters = ["pairs/exact", "pairs/plus/+/end", "pairs/hash/#"]
    topics = ["pairs/exact", "pairs/plus/any/end", "pairs/hash/a/b"]
    door = Door.of(dev.mqtt[0])
    processes = {"mqtt.js": MqttJs()}
    if door.is_websocket:
        processes["chromium"] = MqttJs(chromium=True)
    # Mosquitto's commands know no WebSocket.
    kinds = ["paho", *processes] + ([] if door.is_websocket else ["mosquitto"])
    subscribers, publishers = {}, {}
    try:
        for version in VERSIONS:
            for node, port in enumerate(dev.mqtt):
                subscribers["paho", version, node] = client = Paho(port, version)
                check(client.subscribe(*[(name, 2) for name in filters]) == [2, 2, 2], "granted QoS")
                publishers["paho", version, node] = Paho(port, version)
                if "mosquitto" in kinds:
                    subscribers["mosquitto", version, node] = MosquittoSub(port, version, filters, 2)
                for kind, js in processes.items():
                    subscribers[kind, version, node] = client = js.connect(port, version)
                    check(client.subscribe(filters, 2) == [2, 2, 2], "granted QoS")
                    publishers[kind, version, node] = js.connect(port, version)
        time.sleep(ROUTES_KNOWN_S)

        expected = Counter()
        for version in VERSIONS:
            for node, port in enumerate(dev.mqtt):
                for topic in topics:
                    for qos in QOS:
                        for kind in kinds:
                            payload = f"from {kind} {version} node {node} qos {qos}"
                            expected[topic, payload, qos] += 1
                            if kind == "mosquitto":
                                mosquitto_pub(port, version, topic, payload, qos)
                            else:
                                publishers[kind, version, node].publish(topic, payload.encode(), qos)

        total = sum(expected.values())
        for (kind, version, node), subscriber in subscribers.items():
            who = f"{kind} {version} on node {node + 1}"
            with subscriber.changed:
                subscriber.changed.wait_for(lambda subscriber=subscriber: len(subscriber.all) >= total, 20)
            got = Counter((m.topic, m.payload.decode(), m.qos) for m in subscriber.settle(0.2))
            missing, extra = expected - got, got - expected
            check(not missing and not extra, f"{who}: missing {sum(missing.values())} {list(missing)[:3]}, "
                                             f"extra {sum(extra.values())} {list(extra)[:3]}")
        return f"{total} messages, {total * len(subscribers)} deliveries"
    finally:
        for client in (*subscribers.values(), *publishers.values()):
            client.close()
        for js in processes.values():
            js.close()


def downgrade(dev):
    publisher = Paho(dev.mqtt[0], 5)
    for granted in QOS:
        subscriber = Paho(dev.mqtt[1], 5)
        check(subscriber.subscribe((f"downgrade/{granted}", granted)) == [granted], "granted QoS")
        time.sleep(ROUTES_KNOWN_S if granted == 0 else 0)
        for qos in (1, 2):
            publisher.publish(f"downgrade/{granted}", b"x", qos)
            (message,) = subscriber.take(1)
            check(message.qos == min(qos, granted), f"published at {qos}, granted {granted}, came at {message.qos}")
        subscriber.close()
    publisher.close()


def order_of_1000(dev, version, qos):
    subscriber = Paho(dev.mqtt[2], version)
    topic = f"order/{version}/{qos}"
    subscriber.subscribe((topic, qos))
    time.sleep(ROUTES_KNOWN_S if qos == 0 else 0)
    # paho does not look at the server's Receive Maximum, which is 256.
    publisher = Paho(dev.mqtt[0], version, window=256)
    started = time.monotonic()
    sent = [publisher.send(topic, str(number).encode(), qos) for number in range(1000)]
    if qos:
        codes = {publisher.outcome(mid) for mid in sent}
        check(codes <= {0, 0x10}, f"acknowledged with {codes}")
    got = [int(m.payload) for m in subscriber.take(1000)]
    took = time.monotonic() - started
    wrong = [number for number, came in enumerate(got) if number != came]
    check(not wrong, f"out of order from message {wrong[:1]} on")
    check(subscriber.settle(0.2) == [], "more than were sent")
    publisher.close()
    subscriber.close()
    return f"{took:.2f} s until all arrived"


def order_and_size(dev, chromium):
    """From one node to another, at each QoS, by two clients of MQTT.js."""
    js = MqttJs(chromium)
    try:
        for version in VERSIONS:
            writer, reader = js.connect(dev.mqtt[0], version), js.connect(dev.mqtt[1], version)
            for qos in QOS:
                topic = f"js/{version}/{qos}"
                reader.subscribe([topic], qos)
                time.sleep(ROUTES_KNOWN_S if qos == 0 else 0)
                writer.publish_many(topic, 1000, qos)
                got = [int(m.payload) for m in reader.take(1000)]
                check(got == list(range(1000)), f"version {version}, QoS {qos}: out of order")
                payload = bytes(range(256)) * 1000
                writer.publish(topic, payload, qos)
                check(reader.take(1)[0].payload == payload, f"version {version}, QoS {qos}: the payload is another one")
            writer.close()
            reader.close()
    finally:
        js.close()


def mixed(doors, transports):
    """Each client's messages reach the clients on all transports, on another node."""
    clients = {transport: Paho(doors.doors[transport][number % 3], 5) for number, transport in enumerate(("tcp", *transports))}
    for client in clients.values():
        client.subscribe(("mixed/+", 1))
    for transport, client in clients.items():
        client.publish(f"mixed/{transport}", b"x", 1)
    for transport, client in clients.items():
        got = {m.topic for m in client.take(len(clients))}
        check(got == {f"mixed/{other}" for other in clients}, f"the client on {transport} got {got}")
        client.close()


def large_payload(dev, random):
    payload = random.randbytes(250_000)
    subscribers = [Paho(port, 5) for port in dev.mqtt]
    for subscriber in subscribers:
        subscriber.subscribe(("large/#", 2))
    time.sleep(ROUTES_KNOWN_S)
    for number, port in enumerate(dev.mqtt):
        publisher = Paho(port, 4 + number % 2)
        for qos in QOS:
            publisher.publish(f"large/{number}/{qos}", payload, qos)
        # QoS 0 goes out with the connection, before its end.
        for subscriber in subscribers:
            for message in subscriber.take(3):
                check(message.payload == payload, f"{message.topic}: the payload changed")
        publisher.close()
    for subscriber in subscribers:
        subscriber.close()


def share_groups(dev, qos):
    """Two groups with a member on each node and one beside them; each message once per group."""
    topic = f"share/{qos}/x"
    groups = {name: [Paho(port, 5) for port in dev.mqtt] for name in ("red", "blue")}
    alone = Paho(dev.mqtt[1], 4)
    for name, members in groups.items():
        for member in members:
            member.subscribe((f"$share/{name}/share/{qos}/+", qos))
    alone.subscribe((topic, qos))
    time.sleep(ROUTES_KNOWN_S)
    publishers = [Paho(port, 5) for port in dev.mqtt]
    expected = set()
    for number in range(300):
        payload = str(number).encode()
        expected.add(payload)
        publishers[number % 3].publish(topic, payload, qos)
    check({m.payload for m in alone.take(300)} == expected, "the subscriber outside misses some")
    shares = {}
    for name, members in groups.items():
        wait_until(f"{name} has all", ANSWER_S, lambda: sum(len(member.all) for member in members) >= 300)
        came = [[m.payload for m in member.settle(0.5)] for member in members]
        together = sorted(payload for one in came for payload in one)
        check(together == sorted(expected), f"{name}: {len(together)} deliveries of 300 messages, {len(set(together))} different")
        shares[name] = [len(one) for one in came]
    for client in (*publishers, alone, *groups["red"], *groups["blue"]):
        client.close()
    return f"shares {shares}"


def takeover(dev):
    """The older connection of a client id ends with 0x8E, wherever the newer one is; the newer one works."""
    times = []
    for before in dev.mqtt:
        for after in dev.mqtt:
            old = Paho(before, 5, "taken-over")
            old.subscribe(("taken", 1))
            started = time.monotonic()
            new = Paho(after, 5, "taken-over")
            times.append(time.monotonic() - started)
            check(old.wait_end() == 0x8E, f"the older connection ended with {old.end}")
            check(not new.connack[2].session_present, "session present although nothing is kept")
            new.subscribe(("taken", 1))
            new.publish("taken", b"to the newer", 1)
            check([m.payload for m in new.take(1)] == [b"to the newer"], "the newer one got something else")
            check(old.all == [], "the older one got something")
            old.close()
            new.close()
    return f"CONNACK after {1000 * max(times):.0f} ms at most"


def subscribe_then_publish(dev, version):
    """Nothing that is published after the SUBACK is missed, from whichever node it comes."""
    publishers = [Paho(port, version) for port in dev.mqtt]
    subscribers = [Paho(port, version) for port in dev.mqtt]
    for number in range(300):
        topic = f"at-once/{version}/{number}"
        subscriber, publisher = subscribers[number % 3], publishers[number // 3 % 3]
        wanted = (topic, f"at-once/{version}/{number}/#", f"at-once/{version}/+")[number % 3]
        subscriber.subscribe((wanted, 1))
        publisher.publish(topic, b"x", 1 + number % 2)
        (message,) = subscriber.take(1)
        check(message.topic == topic, f"got {message.topic} instead of {topic}")
        subscriber.unsubscribe(wanted)
    for client in (*publishers, *subscribers):
        client.close()


def unsubscribe(dev):
    subscriber, publisher = Paho(dev.mqtt[0], 5), Paho(dev.mqtt[1], 5)
    subscriber.subscribe(("leave/a", 1), ("leave/b", 1))
    subscriber.unsubscribe("leave/a")
    publisher.publish("leave/a", b"unwanted", 1)
    publisher.publish("leave/b", b"wanted", 1)
    check([m.payload for m in subscriber.take(1)] == [b"wanted"], "the wrong one came")
    check(subscriber.settle(0.5) == [], "something came after UNSUBACK")
    subscriber.close()
    publisher.close()


def request_and_response(dev):
    asking, answering = Paho(dev.mqtt[0], 5), Paho(dev.mqtt[2], 5)
    asking.subscribe(("answers/here", 1))
    answering.subscribe(("questions", 1))
    asked = properties("PUBLISH", ResponseTopic="answers/here", CorrelationData=b"\x00\x01\xff", ContentType="text/plain",
                       PayloadFormatIndicator=1, UserProperty=[("a", "1"), ("b", "2"), ("a", "3")])
    asking.publish("questions", b"?", 1, props=asked)
    (question,) = answering.take(1)
    got = question.properties
    check(got.UserProperty == [("a", "1"), ("b", "2"), ("a", "3")], f"user properties {got.UserProperty}")
    check(got.ContentType == "text/plain" and got.PayloadFormatIndicator == 1, "content type or format indicator")
    answering.publish(got.ResponseTopic, b"!", 1, props=properties("PUBLISH", CorrelationData=got.CorrelationData))
    (answer,) = asking.take(1)
    check(answer.properties.CorrelationData == b"\x00\x01\xff", "correlation data")
    asking.close()
    answering.close()


def message_expiry(dev):
    subscriber, publisher = Paho(dev.mqtt[1], 5), Paho(dev.mqtt[0], 5)
    subscriber.subscribe(("expiry", 1))
    publisher.publish("expiry", b"long", 1, props=properties("PUBLISH", MessageExpiryInterval=600))
    (message,) = subscriber.take(1)
    left = message.properties.MessageExpiryInterval
    check(590 <= left <= 600, f"600 s have become {left} s")
    subscriber.close()
    publisher.close()


def topic_alias(dev):
    subscriber = Paho(dev.mqtt[1], 5)
    publisher = Paho(dev.mqtt[0], 5)
    maximum = getattr(publisher.connack[1], "TopicAliasMaximum", 0)
    check(maximum > 0, "the server takes no topic alias")
    subscriber.subscribe(("alias/long/name", 1))
    publisher.publish("alias/long/name", b"1", 1, props=properties("PUBLISH", TopicAlias=1))
    publisher.publish("", b"2", 1, props=properties("PUBLISH", TopicAlias=1))
    got = subscriber.take(2)
    check([(m.topic, m.payload) for m in got] == [("alias/long/name", b"1"), ("alias/long/name", b"2")], f"got {got}")
    if maximum < 65535:
        # paho may see the end before it has answered.
        with contextlib.suppress(Failure):
            publisher.send("alias/long/name", b"3", 1, props=properties("PUBLISH", TopicAlias=maximum + 1))
        check(publisher.wait_end() == 0x94, f"an alias above the maximum ended the connection with {publisher.end}")
    subscriber.close()
    publisher.close()
    return f"maximum {maximum}"


def subscription_ids(dev):
    subscriber, publisher = Paho(dev.mqtt[1], 5), Paho(dev.mqtt[0], 5)
    subscriber.subscribe(("ids/+", 1), subscription_id=7)
    subscriber.subscribe(("ids/#", 1), subscription_id=268_435_455)
    publisher.publish("ids/x", b"x", 1)
    messages = subscriber.take(1) + subscriber.settle(1.0)
    ids = sorted(number for m in messages for number in m.properties.SubscriptionIdentifier)
    check(ids == [7, 268_435_455], f"identifiers {ids} in {len(messages)} messages")
    subscriber.close()
    publisher.close()


def no_local(dev):
    both, other = Paho(dev.mqtt[0], 5), Paho(dev.mqtt[1], 5)
    both.subscribe(("local", 1), options=SubscribeOptions(qos=1, noLocal=True))
    both.publish("local", b"mine", 1)
    other.publish("local", b"theirs", 1)
    came = both.take(1) + both.settle(1.0)
    check([m.payload for m in came] == [b"theirs"], "no local is not kept")
    both.close()
    other.close()


def sessions_and_retained(dev):
    """A session goes on another node with what waited for it, CONNACK tells the truth, and a retained message is for those who come later."""
    forever = properties("CONNECT", SessionExpiryInterval=0xFFFFFFFF)
    client = Paho(dev.mqtt[0], 5, "sleeper", connect_properties=forever)
    told = client.connack[1]
    check(getattr(told, "RetainAvailable", 1) == 1, "CONNACK says Retain Available 0")
    check(getattr(told, "SessionExpiryInterval", None) == 7 * 24 * 3600, "CONNACK does not say how long the session is kept")
    check(not client.connack[2].session_present, "session present at first")
    client.subscribe(("sleeper/inbox", 2))
    client.close()
    publisher = Paho(dev.mqtt[1], 4)
    for qos in (1, 2):
        publisher.publish("sleeper/inbox", b"while away", qos)
    client = Paho(dev.mqtt[2], 5, "sleeper", connect_properties=forever, clean=False)
    check(client.connack[2].session_present, "the session is gone")
    check(sorted(m.qos for m in client.take(2)) == [1, 2], "not what waited")
    client.close()
    Paho(dev.mqtt[0], 5, "sleeper").close()

    subscriber = Paho(dev.mqtt[1], 4)
    subscriber.subscribe(("kept/3", 1))
    publisher.publish("kept/3", b"x", 1, retain=True)
    (message,) = subscriber.take(1)
    check(not message.retain, "a live message has the retain flag")
    late = Paho(dev.mqtt[2], 5)
    late.subscribe(("kept/#", 1))
    (message,) = late.take(1)
    check(message.retain and message.payload == b"x", "not the retained message")
    publisher.publish("kept/3", b"", 1, retain=True)
    later = Paho(dev.mqtt[0], 4)
    later.subscribe(("kept/#", 1))
    check(later.settle(0.5) == [], "a cleared message is still retained")
    for one in (publisher, subscriber, late, later):
        one.close()


def will(dev):
    watcher = Paho(dev.mqtt[1], 5)
    watcher.subscribe(("wills/#", 1))
    # By hand, since a library would say goodbye.
    variable = b"\x00\x04MQTT\x04" + bytes([0b0000_1110]) + struct.pack("!H", 30)
    fields = b"".join(struct.pack("!H", len(f)) + f for f in (b"mortal", b"wills/mortal", b"gone"))
    for leave, expected in ((b"\xe0\x00", []), (b"", [b"gone"])):
        with contextlib.closing(Door.of(dev.mqtt[0]).open()) as mortal:
            mortal.sendall(b"\x10" + bytes([len(variable + fields)]) + variable + fields)
            check(mortal.recv(4) == b"\x20\x02\x00\x00", "no CONNACK")
            mortal.sendall(leave)
        if expected:
            check([m.payload for m in watcher.take(1)] == expected, "the will is another one")
        check(watcher.settle(0.5) == [], "a will that should not be")
    watcher.close()


if __name__ == "__main__":
    sys.exit(main())
