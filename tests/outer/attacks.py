#!/usr/bin/env python3
"""Clients that mean harm, against one node: it does not crash, its memory is bounded, and a canary beside them is served.

    tests/outer/attacks.py --magpie target/release/magpie [--seed N] [--only "half-open"]

Each attack has a bound on how much the node's memory (resident, the peak that the kernel keeps) may grow while it lasts, and on how much
it is above where it was once the attackers are gone. The aim for the canary is a p99 of 250 ms from publish to receipt; a machine that is
busy with other things can miss that, so only ten times as much fails. Runs for about three minutes, on loopback only.
"""

import argparse
import resource
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import packets
from canary import Canary
from doors import PATH, TRANSPORTS, Doors
from packets import CONNACK, DISCONNECT, PING, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, SUBACK, Closed, Raw, connect, connected, publish, subscribe
from report import Failure, Suite, check, say, wait_until

CANARY_P99_AIM_MS = 250
CANARY_P99_MAX_MS = 10 * CANARY_P99_AIM_MS
# Connections of attackers are gone from the node's count after this, and its memory is back after that.
GONE_WITHIN_S = 30
BACK_WITHIN_S = 5
CONNECT_TIMEOUT_S = 10
# A node keeps the newest 64 MiB of its log in memory, which are filled before attacks that write there.
LOG_FILLED_BYTES = 120_000_000

# `grows` and `keeps`: MiB that the node may grow by at most while it lasts, and that it may be above its memory of before, afterwards.
Attack = namedtuple("Attack", "name function grows keeps writes transport", defaults=(False, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    suite = Suite("attacks", arguments.seed)
    for attack in ATTACKS:
        if arguments.only in attack.name:
            suite.step(attack.name, suffer, arguments.magpie, attack, suite.random)
    return suite.end()


def suffer(magpie, attack, random):
    """On a node of its own, so that no attack hides in memory that another one left."""
    doors = Doors(magpie, TRANSPORTS[1:] if attack.transport else (), count=1)
    cluster = doors.cluster
    # Otherwise what nobody subscribes to any more is remembered for half a minute, and a busy machine leaves a flood's last SUBSCRIBE too
    # long without an answer.
    cluster.nodes[0].environment = {"MAGPIE_CLUSTER__ROUTE_LINGER": "1s", "MAGPIE_SESSION__PUBLISH_DEADLINE": "60s"}
    with cluster:
        target = Target(cluster.nodes[0], random, {transport: ports[0] for transport, ports in doors.doors.items()})
        try:
            if attack.writes:
                target.fill_log()
            told = target.suffer(attack)
            target.stop()
            return told
        finally:
            target.canary.close()


class Target:
    """The node that is attacked, and the canary on it."""

    def __init__(self, node, random, doors=None):
        self.node, self.random, self.port, self.doors = node, random, node.mqtt, doors
        self.canary = Canary(node.mqtt)
        time.sleep(2)

    def suffer(self, attack):
        quiet = self.node.status()["connections"]
        before = self.memory("VmRSS")
        peak, sung, remark = self.round(attack)
        if sung["p99_ms"] > CANARY_P99_MAX_MS:
            # A machine can stand still once; what an attack takes from others, it takes each time.
            first = peak
            peak, sung, remark = self.round(attack)
            peak = max(first, peak)
        told = [f"grew by {peak - before:.1f} MiB (bound {attack.grows})",
                f"canary p99 {sung['p99_ms']} ms, worst {sung['max_ms']} ms of {sung['count']}" +
                (" (over the aim of 250 ms)" if sung["p99_ms"] > CANARY_P99_AIM_MS else ""), remark or ""]
        check(sung["p99_ms"] <= CANARY_P99_MAX_MS, f"the canary waited too long; {'; '.join(told)}")
        check(peak - before <= attack.grows, f"memory is not bounded; {'; '.join(told)}")
        wait_until("the attackers' connections are gone", GONE_WITHIN_S, lambda: self.node.status()["connections"] <= quiet, 0.1)
        try:
            wait_until("the memory is back", BACK_WITHIN_S, lambda: self.memory("VmRSS") - before <= attack.keeps, 0.2)
            told.insert(1, f"{self.memory('VmRSS') - before:+.1f} afterwards (bound {attack.keeps})")
        except Failure:
            # What an allocator keeps for the next time is not lost: only a leak grows each time by as much again.
            kept, more, bound = self.memory("VmRSS") - before, [], max(16, attack.grows / 4)
            while not more or more[-1] > bound and len(more) < 3:
                again, _, _ = self.round(attack)
                more.append(again - peak)
                peak = max(peak, again)
            told.insert(1, f"{kept:+.1f} afterwards, and by {', '.join(f'{grew:.1f}' for grew in more)} more when it comes again (bound {bound:.0f})")
            check(more[-1] <= bound, f"memory is lost; {'; '.join(told)}")
        return "; ".join(part for part in told if part)

    def round(self, attack):
        """The peak of the memory in MiB, what the canary tells, and what the attack tells."""
        # From here on the kernel keeps the peak anew.
        (self.proc / "clear_refs").write_text("5")
        self.canary.figures()
        try:
            remark = attack.function(self, *([self.doors[attack.transport]] if attack.transport else []))
        finally:
            check(self.node.process.poll() is None, f"the node has ended:\n{self.node.log_tail()}")
        peak = self.memory("VmHWM")
        sung = self.canary.figures()
        while sung["count"] < 100 and not sung["lost"]:
            # It was over too soon for a p99.
            time.sleep(1)
            more = self.canary.figures()
            sung = {name: sung[name] + more[name] if name in ("count", "lost", "ends") else max(sung[name] or 0, more[name] or 0) for name in sung}
        check(sung["lost"] == 0 and sung["ends"] == 0, f"the canary was not served: {sung}")
        return peak, sung, remark

    def fill_log(self):
        writer = connected(self.port, "filler")
        payload = b"x" * 10_000
        publish_fast(writer, [f"filled/{number % 100}" for number in range(LOG_FILLED_BYTES // 10_000)], payload, 1, LOG_FILLED_BYTES // 10_000)
        writer.close(True)
        time.sleep(1)

    @property
    def proc(self):
        return Path(f"/proc/{self.node.process.pid}")

    def memory(self, field):
        """In MiB."""
        for line in (self.proc / "status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise Failure("the node has ended")

    def sessions(self):
        """That nobody is connected to."""
        return sum(group["holds"]["sessions_detached"] for group in self.node.status()["groups"] if group["holds"])

    def stop(self):
        check("panicked" not in self.node.log.read_text(errors="replace"), f"a panic:\n{self.node.log_tail()}")
        self.canary.close()
        self.node.stop()


# --- before CONNECT


def half_open(target):
    """Some say nothing, some half a CONNECT, some all of one but its last byte."""
    whole = connect("half-open", will=("will", b"x" * 1500, 0, False))
    ends = Ends(2000)
    for number in range(2000):
        ends.add(open_with(target.port, (b"", whole[:1], whole[:20], whole[:-1])[number % 4]))
    took = ends.wait(CONNECT_TIMEOUT_S + 5)
    return f"2000 connections closed after {min(took):.1f} to {max(took):.1f} s"


def half_open_over(target, door):
    """Of the connections over TLS and WebSocket, some say nothing, some half of what begins them, some all of it, and then no MQTT."""
    ends, whole = Ends(1000), connect("half-open")
    hello = HELLO if door.is_tls else f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n".encode()
    began = time.monotonic()
    for number in range(700):
        ends.add(open_with(door, (b"", hello[:1], hello[:-1])[number % 3]))
    for number in range(300):
        opened = door.open()
        if number % 2:
            opened.sendall(whole[:-1])
        ends.add(opened)
    opened_in = time.monotonic() - began
    took = ends.wait(CONNECT_TIMEOUT_S + 5)
    return f"1000 connections, opened in {opened_in:.1f} s, closed after {min(took):.1f} to {max(took):.1f} s"


def half_handshakes(target, door):
    """Much of a ClientHello, or of the request for an upgrade, and never the rest: it is not this process that keeps it."""
    if door.is_tls:
        halves = (HELLO, b"\x16\x03\x01\x3e\x80\x01\x00\x3e\x7c\x03\x03" + b"r" * 12_000)
    else:
        head = f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nX: ".encode()
        halves = (head, head + b"y" * 5500)
    ends = Ends(2000)
    for number in range(2000):
        ends.add(open_with(door, halves[number % 2]))
    took = ends.wait(CONNECT_TIMEOUT_S + 5)
    return f"2000 connections closed after {min(took):.1f} to {max(took):.1f} s"


# The beginning of a ClientHello that says it has 512 bytes.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"r" * 200


def web_sockets(target, door):
    """Frames that lie about their length, are not masked, or never end; floods of pings; a head that never ends."""
    ends, liars = [], []

    def ended(name, opened, seconds):
        opened.settimeout(seconds)
        try:
            while opened.recv(65_536):
                pass
        except TimeoutError:
            raise Failure(f"{name}: still open after {seconds} s") from None
        except OSError:
            pass
        ends.append(name)
        opened.close()

    greeting = connect("framed", keep_alive_s=3)
    for name, frame in {"2^62 bytes announced": b"\x82\xff\x40" + b"\0" * 7 + b"mask" + b"x" * 100, "a length with the highest bit": b"\x82\xff" + b"\xff" * 8 + b"mask",
                        "256 MiB announced": b"\x82\xff\0\0\0\0\x10\0\0\0mask", "not masked": b"\x82\x02" + PING, "reserved bits": b"\xf2\x82maskab",
                        "an unknown opcode": b"\x83\x82maskab", "a ping of 126 bytes": b"\x89\xfe\0\x7emask" + b"x" * 126,
                        "a ping in fragments": b"\x09\x82maskab", "text": b"\x81\x82maskab", "nothing to continue": b"\x80\x82maskab"}.items():
        for first in (b"", greeting):
            opened = door.open()
            if first:
                opened.sendall(first)
            opened.socket.sendall(frame)
            liars.append((name + (" after CONNECT" if first else " before CONNECT"), opened))
    # A packet announced as 1 MB, a byte per frame, in one message that never ends.
    for _ in range(50):
        opened = door.open()
        opened.sendall(greeting + b"\x30" + packets.varint(1_000_000), is_last=False)
        for _ in range(200):
            opened.sendall(b"x", opcode=0, is_last=False)
        liars.append(("a message that never ends", opened))
    for name, opened in liars:
        ended(name, opened, CONNECT_TIMEOUT_S + 4)
    opened = door.open()
    opened.sendall(greeting)
    began, pings = time.monotonic(), 0
    try:
        while time.monotonic() - began < 3:
            opened.sendall(b"p" * 125, opcode=9)
            pings += 1
    except OSError:
        pass
    ended("pings are no packets of MQTT, nor is their flood", opened, 10)
    head = socket.create_connection(("127.0.0.1", int(door)), 10)
    try:
        head.sendall(f"GET {PATH} HTTP/1.1\r\n".encode())
        for _ in range(20_000):
            head.sendall(b"X-Filler: " + b"y" * 90 + b"\r\n")
    except OSError:
        pass
    ended("a head of 2 MB", head, CONNECT_TIMEOUT_S + 4)
    return f"{len(ends)} ended, {pings} pings"


def huge_connect(target):
    """A CONNECT that says it has 256 MiB is refused at once; one of nearly the largest packet, never completed, holds what it has sent."""
    ends = Ends(300)
    for _ in range(300):
        ends.add(open_with(target.port, b"\x10\xff\xff\xff\x7f" + b"x" * 100))
    at_once = max(ends.wait(5))
    ends = Ends(500)
    for _ in range(500):
        ends.add(open_with(target.port, b"\x10" + packets.varint(1024 * 1024 - 10) + packets.text("MQTT") + b"\x05\x02\x00\x3c"))
    took = ends.wait(CONNECT_TIMEOUT_S + 5)
    return f"256 MiB announced: closed after {at_once:.2f} s; 1 MiB announced by 500: after {max(took):.1f} s"


def unfinished_connect(target):
    """1,000 connections send nearly the largest CONNECT before anybody knows who they are; a larger one is refused at once."""
    larger = Raw(target.port, connect("larger", properties=packets.user_property("p", b"x" * 65_000) * 2))
    check(larger.until_closed(5)[0] is not None, "a CONNECT of more than session.max_connect_size is waited for")
    packet = connect("unfinished", properties=packets.user_property("p", b"x" * 60_000))
    liars = [Raw(target.port) for _ in range(1000)]
    for liar in liars:
        liar.send(packet[:-1000])
    time.sleep(1)
    took = [liar.until_closed(CONNECT_TIMEOUT_S + 5)[0] for liar in liars]
    check(None not in took, f"{took.count(None)} are still open")


def dripped_connect(target):
    """A byte of a valid CONNECT each 100 ms: it would take longer than the time-out."""
    whole = connect("drip", properties=packets.user_property("a" * 100, "b" * 100))
    drips = [Raw(target.port) for _ in range(200)]
    began = time.monotonic()
    for at in range(len(whole)):
        for drip in list(drips):
            if has_ended(drip):
                drips.remove(drip)
            else:
                drip.send(whole[at:at + 1])
        if not drips:
            break
        time.sleep(max(0.0, began + 0.1 * (at + 1) - time.monotonic()))
    took = time.monotonic() - began
    check(not drips and took < CONNECT_TIMEOUT_S + 5, f"{len(drips)} of 200 are still open after {took:.1f} s")
    return f"closed after {took:.1f} s"


# --- what one packet may hold


def user_properties(target):
    """60,000 of them in a PUBLISH, to 20 subscribers, and in a CONNECT, SUBSCRIBE and UNSUBSCRIBE."""
    many = packets.user_property("a", "b") * 60_000
    readers = [connected(target.port, f"props-{number}") for number in range(20)]
    for reader in readers:
        reader.send(subscribe(["props"], qos=1))
        reader.expect(SUBACK)
    told = []
    for number in range(5):
        writer = connected(target.port, "props-writer")
        writer.send(publish("props", b"x", 1, number + 1, properties=many))
        told.append(f"PUBLISH {answer_to(writer)}")
        if "accepted" in told[-1]:
            for reader in readers:
                check(len(reader.expect(PUBLISH)) > 400_000, "properties are missing")
        writer.close()
    # As many as are let through.
    fewer = 60_000
    while "accepted" not in told[-1]:
        fewer //= 2
        writer = connected(target.port, "props-writer")
        writer.send(publish("props", b"x", 1, 1, properties=many[:7 * fewer]))
        told.append("accepted" if answer_to(writer) == "accepted" else told[-1])
        writer.close()
    told[-1] = f"{fewer} accepted"
    for first in (connect("props-connect", properties=many), connect("props-will", will=("w", b"", 0, False), will_properties=many)):
        greeted = Raw(target.port, first)
        told.append(f"CONNECT {answer_to(greeted)}")
        greeted.close(True)
    for body in (subscribe(["x"], properties=many), packets.unsubscribe(["x"], properties=many)):
        asking = connected(target.port, "props-asks")
        asking.send(body)
        told.append(f"{'UN' if body[0] >> 4 == packets.UNSUBSCRIBE else ''}SUBSCRIBE {answer_to(asking)}")
        asking.close(True)
    for reader in readers:
        reader.close()
    return ", ".join(dict.fromkeys(told))


def huge_packets(target):
    """After CONNECT: 256 MiB announced is refused at once; the largest packet announced and not sent costs nothing by itself."""
    liars = [connected(target.port, f"liar-{number}") for number in range(300)]
    codes = set()
    for liar in liars:
        liar.send(b"\x30\xff\xff\xff\x7f" + b"\0\1x" + b"y" * 100)
    for liar in liars:
        took, came = liar.until_closed(5)
        check(took is not None, "a packet of 256 MiB is waited for")
        codes |= {body[0] for first, body in came if first >> 4 == DISCONNECT}
    check(codes == {0x95}, f"closed with {codes}")
    slow = [connected(target.port, f"slow-{number}", keep_alive_s=3) for number in range(500)]
    for one in slow:
        one.send(b"\x30" + packets.varint(1024 * 1024 - 100) + packets.text("announced") + b"\0")
    took = [one.until_closed(10)[0] for one in slow]
    check(None not in took, f"{took.count(None)} are still open")
    return "0x95; 1 MiB announced by 500"


def dripped_packets(target):
    """[MQTT-3.1.2-22]: bytes are no packet: who drips them is gone after one and a half times the Keep Alive. Whole packets in pieces are fine."""
    drips = [connected(target.port, f"dripping-{number}", keep_alive_s=2) for number in range(100)]
    honest = connected(target.port, "piecewise", keep_alive_s=4)
    body = publish("drip", b"z" * 1000)
    began, ends = time.monotonic(), []
    for at in range(80):
        for drip in list(drips):
            if has_ended(drip):
                drips.remove(drip)
                ends.append(time.monotonic() - began)
            else:
                drip.send(body[at:at + 1])
        # One PINGREQ per second, its two bytes half a second apart.
        if at % 5 == 0:
            honest.send(PING[at // 5 % 2:][:1])
        time.sleep(max(0.0, began + 0.1 * (at + 1) - time.monotonic()))
    check(not drips, f"{len(drips)} of 100 are served for 8 s although no packet was complete for 3 s")
    for _ in range(7):
        honest.expect(PINGRESP, seconds=2)
    # The first byte of a PINGREQ alone is no packet either.
    honest.send(PING[:1])
    took, _ = honest.until_closed(12)
    check(took is not None, "half a PINGREQ keeps a connection alive")
    return f"dripping ended after {max(ends):.1f} s, half a PINGREQ after {took:.1f} s"


# --- topics


def deep_topics(target):
    """128 levels are the most; 10,000 filters as deep as that by one client, no two alike from their first level on."""
    client = connected(target.port, "deep")
    at_most, beyond = "/".join("d" * 128), "/".join("d" * 129)
    client.send(subscribe([at_most]))
    check(client.expect(SUBACK)[-1] == 0, "128 levels are refused")
    client.send(publish(at_most, b"deep"))
    check(client.expect(PUBLISH)[-4:] == b"deep", "what came is another message")
    told = []
    for topic in (beyond, "/" * 65_535):
        for asked in (publish(topic, b"", 1), publish(topic), subscribe([topic])):
            sender = connected(target.port, "deeper")
            sender.send(asked)
            told.append(answer_to(sender))
            sender.close()
    check("accepted" not in told, "a topic of 129 levels was accepted")
    packet_id = 1
    for start in range(0, 9_900, 100):
        packet_id += 1
        client.send(subscribe([f"{number}/" + "/".join("d" * 127) for number in range(start, start + 100)], packet_id))
        check(max(client.expect(SUBACK, seconds=30)[3:]) < 0x80, "refused")
    client.close()
    return f"129 levels: {', '.join(dict.fromkeys(told))}"


def wildcard_blow_up(target):
    """All 2^12 filters of 12 levels of `a` or `+`, each with 20 publishers' messages to match; and 100 clients with +/+/.../#."""
    client = connected(target.port, "blow-up")
    filters = ["/".join("+" if bits >> level & 1 else "a" for level in range(12)) for bits in range(1 << 12)]
    granted = 0
    for start in range(0, len(filters), 512):
        client.send(subscribe(filters[start:start + 512], start + 1, qos=1))
        codes = client.expect(SUBACK)[3:]
        check(set(codes) <= {1, 0x97}, f"SUBACK {set(codes)}")
        granted += codes.count(1)
    crowd = [connected(target.port, f"plus-{number}") for number in range(100)]
    for number, one in enumerate(crowd):
        one.send(subscribe(["/".join("+" * (number % 60 + 1)) + "/#", "#", "+/#"]))
        one.expect(SUBACK)
    writers = [connected(target.port, f"blow-{number}") for number in range(20)]
    began = time.monotonic()
    for turn in range(10):
        for writer in writers:
            writer.send(publish("/".join("a" * 12), b"x", 1, turn + 1))
            # A topic that no filter was matched against yet.
            writer.send(publish("/".join(str(target.random.randrange(10 ** 6)) for _ in range(60)), b"x"))
        for writer in writers:
            writer.expect(PUBACK)
    took = time.monotonic() - began
    for one in (client, *crowd, *writers):
        one.close()
    # What one client had used up is free again.
    late = connected(target.port, "late-plus")

    def is_granted():
        late.send(subscribe(["+/x/+/x/+/x/+/x/+/x/+/x/x/x/+"], 9))
        return late.expect(SUBACK)[-1] == 0

    freed = wait_until("another filter is granted", 30, is_granted, 0.5)
    late.close()
    return f"{granted} of 4096 filters granted, 400 messages in {took:.1f} s, places for other filters {freed:.1f} s later"


def subscription_flood(target):
    """10 clients with as many subscriptions as they may have; one more is refused."""
    clients = [connected(target.port, f"flood-{number}") for number in range(10)]
    for number, client in enumerate(clients):
        for start in range(0, 10_000, 1000):
            client.send(subscribe([f"flood/{number}/{start + index}/+/x" for index in range(1000)], start // 1000 + 1, qos=1))
    for client in clients:
        for _ in range(10):
            check(max(client.expect(SUBACK, seconds=60)[3:]) < 0x80, "refused")
        client.send(subscribe(["one/more"], 99))
        check(client.expect(SUBACK)[-1] == 0x97, "10,001 subscriptions are granted")
    for client in clients:
        client.close()
    return "100,000 subscriptions"


# --- messages


def never_reads(target):
    """A subscriber with a small window that reads nothing, beside a fast publisher; at QoS 0 and at QoS 1, large messages and small."""
    return flooded(target, ((0, 60_000, 3000), (0, 1000, 60_000), (0, 0, 100_000), (1, 1000, 15_000)))


def never_reads_properties(target):
    """The same, with messages that are nothing but user properties."""
    return flooded(target, ((0, 0, 3000),), packets.user_property("name", "v" * 600) * 100)


def flooded(target, floods, properties=b""):
    told = []
    for qos, size, count in floods:
        reader = connected(target.port, "never-reads", receive_buffer=4096)
        reader.send(subscribe(["flood"], qos=qos))
        reader.expect(SUBACK)
        writer = connected(target.port, "fast")
        took = publish_fast(writer, "flood", b"x" * size, qos, count, properties=properties)
        told.append(f"{count} of {size + len(properties)} B at QoS {qos} in {took:.1f} s")
        reader.close()
        writer.close()
    return "; ".join(told)


def never_reads_answers(target):
    """A client that sends what must be answered and reads no answer: it is not read any more."""
    deaf = connected(target.port, "deaf", receive_buffer=4096)
    sent = 0
    try:
        while sent < 20_000_000:
            deaf.send(PING * 50_000, 2)
            sent += 100_000
    except Closed:
        pass
    deaf.close()
    return f"took {sent} bytes of PINGREQ"


def retained_flood(target):
    """10^4 retained by one client, all asked for by 20 clients at once of whom 10 do not read, then cleared."""
    writer = connected(target.port, "hoarder")
    publish_fast(writer, [f"hoard/{number}" for number in range(10_000)], b"x" * 1000, 1, 10_000, retain=True)
    readers = [connected(target.port, f"hoard-{number}", receive_buffer=4096 if number % 2 else None) for number in range(20)]
    for reader in readers:
        reader.send(subscribe(["hoard/#"]))
    got = 0
    for reader in readers[::2]:
        for _ in range(10_000):
            reader.expect(PUBLISH)
            got += 1
    for reader in readers:
        reader.close()
    publish_fast(writer, [f"hoard/{number}" for number in range(10_000)], b"", 1, 10_000, retain=True)
    writer.close()
    late = connected(target.port, "hoard-late")
    late.send(subscribe(["hoard/#"]))
    late.expect(SUBACK)
    try:
        late.take(1)
        raise Failure("something is retained that was cleared")
    except TimeoutError:
        pass
    late.close()
    return f"{got} delivered"


def qos2_held(target):
    """Nobody releases: 100 clients of version 5 send more than Receive Maximum, 5 of version 3, which has none, all packet ids there are."""
    clients = [connected(target.port, f"held-{number}") for number in range(100)]
    many = b"".join(publish("held", b"y" * 100, 2, number) for number in range(1, 1001))
    for client in clients:
        try:
            client.send(many)
        except Closed:
            pass
    codes = set()
    for client in clients:
        took, came = client.until_closed(5)
        check(took is not None, "more than Receive Maximum were taken")
        check(sum(first >> 4 == PUBREC for first, _ in came) <= 256, "more than Receive Maximum were acknowledged")
        codes |= {body[0] for first, body in came if first >> 4 == DISCONNECT}
    check(codes <= {0x93}, f"closed with {codes}")
    clients = [connected(target.port, f"held-3-{number}", 4) for number in range(5)]
    held = [0]

    def hold(lane):
        for start in range(1, 65_536, 255):
            ids = range(start, min(start + 255, 65_536))
            clients[lane].send(b"".join(publish("held", b"y" * 20, 2, number, 4) for number in ids), 30)
            for _ in ids:
                clients[lane].expect(PUBREC)
                held[0] += 1

    in_parallel(5, hold)
    for client in clients:
        client.close()
    return f"version 5: {', '.join(map(hex, codes))}; version 3: {held[0]} held"


def never_acknowledges(target):
    """50 subscribers at QoS 2 that answer nothing, with sessions that outlive their connections."""
    properties = packets.session_expiry(5)
    readers = [connected(target.port, f"silent-{number}", properties=properties) for number in range(50)]
    for reader in readers:
        reader.send(subscribe(["silent"], qos=2))
        reader.expect(SUBACK)
    writer = connected(target.port, "silent-writer")
    took = publish_fast(writer, "silent", b"z" * 1000, 2, 3000)
    held = []
    for reader in readers:
        _, came = reader.until_closed(0.02)
        held.append(sum(first >> 4 == PUBLISH for first, _ in came))
    check(max(held) <= 256, f"{max(held)} are under way to one client")
    for one in (*readers, writer):
        one.close()
    return f"3000 to 50 in {took:.1f} s, {max(held)} under way to each"


# --- connections and sessions


def takeover_storm(target):
    """One client id on 2,000 connections, 50 at a time, half of them with a session that lasts; the last one works."""
    ends, refused = [0], [0]

    def storm(lane):
        for number in range(40):
            try:
                raw = Raw(target.port, connect("stormy", clean=bool(number % 2), properties=packets.session_expiry(5 * (lane % 2))))
                raw.expect(CONNACK)
                raw.send(subscribe(["storm"], qos=1))
                if number % 4:
                    raw.expect(SUBACK)
                ends[0] += 1
            except (Closed, TimeoutError):
                refused[0] += 1
            finally:
                raw.close()

    in_parallel(50, storm)
    last = connected(target.port, "stormy")
    last.send(subscribe(["storm"], qos=1))
    last.expect(SUBACK)
    last.send(publish("storm", b"calm", 1, 7))
    check(last.expect(PUBLISH)[-4:] == b"calm", "another message")
    last.close(True)
    return f"{ends[0]} were let in, {refused[0]} lost theirs while they asked"


def will_flood(target):
    """1,000 wills of 7 kB, all at once, which nobody asked for but one who does not read and one who does."""
    reader = connected(target.port, "heir")
    reader.send(subscribe(["wills/#"], qos=1))
    reader.expect(SUBACK)
    deaf = connected(target.port, "deaf-heir", receive_buffer=4096)
    deaf.send(subscribe(["wills/#"]))
    deaf.expect(SUBACK)
    mortals = [connected(target.port, f"mortal-{number}", will=(f"wills/{number}", b"w" * 7000, number % 2, False)) for number in range(1000)]
    began = time.monotonic()
    for mortal in mortals:
        mortal.close()
    came = set()
    while len(came) < 1000:
        first, body = reader.take(30)
        if first >> 4 == PUBLISH:
            end = 2 + int.from_bytes(body[:2])
            came.add(body[2:end])
            if first >> 1 & 3:
                reader.send(packets.acknowledge(PUBACK, int.from_bytes(body[end:end + 2])))
    took = time.monotonic() - began
    reader.close()
    deaf.close()
    return f"all 1000 came within {took:.1f} s"


def session_flood(target):
    """10,000 sessions of new client ids, each with a subscription, left behind; they end five seconds later."""
    def flood(lane):
        for number in range(500):
            raw = connected(target.port, f"flood-{lane}-{number}", properties=packets.session_expiry(5))
            raw.send(subscribe([f"session/{lane}/{number}"], qos=1))
            raw.expect(SUBACK)
            raw.close()

    began = time.monotonic()
    in_parallel(20, flood)
    took = time.monotonic() - began
    wait_until("the sessions end", 60, lambda: target.sessions() == 0)
    return f"10,000 in {took:.1f} s, gone {time.monotonic() - began - took:.1f} s later"


def churn(target):
    """20,000 connections that come and go, in order and not; file descriptors come back."""
    before = len(list((target.proc / "fd").iterdir()))

    def turn(lane):
        for number in range(1000):
            raw = Raw(target.port, connect(f"churn-{lane}"))
            if number % 4:
                raw.expect(CONNACK)
            raw.close(bool(number % 2))

    began = time.monotonic()
    in_parallel(20, turn)
    took = time.monotonic() - began
    wait_until("the file descriptors come back", 15, lambda: len(list((target.proc / "fd").iterdir())) <= before + 5)
    return f"{20_000 / took:.0f} per second"


# Bounds in MiB. What an attack may cost follows from the limits that docs/configuration.md names.
ATTACKS = [
    # 8 KiB for each of 2,000 connections.
    Attack("2,000 half-open connections", half_open, 16, 8),
    # 32 KiB for each of 1,000; TLS has buffers of its own.
    Attack("1,000 half-open connections over TLS", half_open_over, 32, 16, transport="tls"),
    Attack("1,000 half-open connections over WebSocket", half_open_over, 16, 8, transport="ws"),
    # 8 KiB for each of 2,000.
    Attack("2,000 halves of a ClientHello", half_handshakes, 16, 8, transport="tls"),
    Attack("2,000 halves of a request for WebSocket", half_handshakes, 16, 8, transport="ws"),
    Attack("WebSocket frames", web_sockets, 16, 8, transport="ws"),
    Attack("CONNECT of a huge announced length", huge_connect, 16, 8),
    # session.max_connect_size for each, and as much again for the buffer it comes in.
    Attack("CONNECT of 60 kB that does not end", unfinished_connect, 160, 8),
    Attack("CONNECT dripped byte by byte", dripped_connect, 8, 8),
    Attack("60,000 user properties", user_properties, 16, 8),
    Attack("packets of a huge announced length", huge_packets, 16, 8),
    Attack("packets dripped byte by byte, and PINGREQ in halves", dripped_packets, 8, 8),
    Attack("deep topics", deep_topics, 256, 32, True),
    Attack("wildcard blow-up", wildcard_blow_up, 16, 8),
    Attack("subscription flood", subscription_flood, 192, 32, True),
    # Twice mailbox.bytes_max.
    Attack("a subscriber that never reads", never_reads, 16, 16, True),
    Attack("a subscriber that never reads properties", never_reads_properties, 16, 16, True),
    Attack("a client that reads no answers", never_reads_answers, 8, 8),
    Attack("10,000 retained by one client", retained_flood, 96, 32, True),
    Attack("QoS 2 packet ids held", qos2_held, 32, 16, True),
    Attack("subscribers that acknowledge nothing", never_acknowledges, 32, 16, True),
    Attack("takeover storm", takeover_storm, 32, 16, True),
    # The wills, and what waits of them for the two who asked for them.
    Attack("will flood", will_flood, 32, 24, True),
    Attack("session flood", session_flood, 32, 16, True),
    Attack("20,000 connections that come and go", churn, 16, 8, True),
]


# --- tools of attackers


class Ends:
    """Many sockets, of which each is watched until the node closes it."""

    def __init__(self, count):
        self.count, self.watch, self.opened = count, selectors.DefaultSelector(), {}

    def add(self, opened):
        opened.setblocking(False)
        self.watch.register(opened, selectors.EVENT_READ)
        self.opened[opened] = time.monotonic()

    def wait(self, seconds):
        """After how many seconds each was closed; fails if some are open longer than this after the last was opened."""
        took, until = [], time.monotonic() + seconds
        try:
            while len(took) < self.count and time.monotonic() < until:
                for key, _ in self.watch.select(0.2):
                    try:
                        if key.fileobj.recv(4096):
                            continue
                    except (BlockingIOError, ssl.SSLWantReadError):
                        continue
                    except OSError:
                        pass
                    took.append(time.monotonic() - self.opened.pop(key.fileobj))
                    self.watch.unregister(key.fileobj)
                    key.fileobj.close()
            check(len(took) == self.count, f"{self.count - len(took)} of {self.count} are still open after {seconds} s")
            return took
        finally:
            for left in self.opened:
                left.close()
            self.watch.close()


def open_with(port, first):
    opened = socket.create_connection(("127.0.0.1", int(port)), 10)
    if first:
        opened.sendall(first)
    return opened


def has_ended(raw):
    """Whether the node has closed, whatever it said before."""
    raw.socket.setblocking(False)
    try:
        while raw.socket.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def answer_to(raw):
    """To what was sent last, in words."""
    try:
        first, body = raw.take(20)
    except Closed:
        return "closed"
    at = {CONNACK: 1, DISCONNECT: 0, PUBACK: 2}.get(first >> 4, -1)
    code = body[at] if len(body) > at else 0
    return "accepted" if code < 0x80 and first >> 4 != DISCONNECT else f"refused with {code:#x}"


def publish_fast(writer, topic, payload, qos, count, retain=False, properties=b""):
    """As fast as it goes, with no more unanswered than Receive Maximum; answers how long it took. With a list of topics: to each one."""
    began, unanswered, batch = time.monotonic(), 0, []
    acknowledged = {1: PUBACK, 2: PUBCOMP}.get(qos)
    for number in range(count):
        one = topic if isinstance(topic, str) else topic[number]
        batch.append(publish(one, payload, qos, number % 65_000 + 1, retain=retain, properties=properties))
        if len(batch) < 100 and number + 1 < count:
            continue
        writer.send(b"".join(batch), 60)
        unanswered += len(batch) if qos else 0
        batch.clear()
        while unanswered > (0 if number + 1 == count else 120):
            first, body = writer.take(60)
            check(first >> 4 != DISCONNECT, f"closed with {body[:1].hex()}")
            check(len(body) < 3 or body[2] < 0x80, f"a publish was refused with {body[2:3].hex()}")
            if first >> 4 == PUBREC:
                writer.send(packets.acknowledge(packets.PUBREL, int.from_bytes(body[:2])))
            unanswered -= first >> 4 == acknowledged
    # What is behind is served after it: the node has read all.
    writer.send(PING)
    writer.expect(PINGRESP, seconds=60)
    return time.monotonic() - began


def in_parallel(count, function):
    errors = []

    def lane(number):
        try:
            function(number)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=lane, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


if __name__ == "__main__":
    sys.exit(main())
