#!/usr/bin/env python3
"""Bytes that no client would send, to a running node, before and after CONNECT: it lives, serves a canary, grows by little, loses nothing.

    tests/outer/bytefuzz.py --magpie target/release/magpie                        # 20 seconds
    tests/outer/bytefuzz.py --magpie target/release/magpie --minutes 10 --seeds 10   # a minute for each of ten seeds

Conversations of valid packets of both versions are mutated: bits flipped, cut, doubled, spliced, lengths that lie, random bytes; and
sent whole, in pieces, or with CONNECT as it should be; over TCP, inside of WebSocket frames, and in place of a WebSocket's handshake, of its
frames and of TLS. Beside them a writer publishes at QoS 1 to a session that sleeps every now
and then: whatever was acknowledged must be there at the end. Configuration files are mutated, too, and checked. A seed repeats the bytes, not the node's timing.
"""

import argparse
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import packets
from canary import Canary
from clients import Patient
from doors import PATH, TRANSPORTS, Doors
from packets import CONNACK, PUBLISH, PUBREC, PUBREL, SUBACK, Closed, Raw, connect, connected, publish, subscribe, unsubscribe
from report import Failure, Suite, check, wait_until

# For two minutes. In longer runs the cache of the log fills with smaller and smaller entries, which take more memory than it counts; there
# the second half is to add next to nothing.
GROWS_MIB = 32
CANARY_P99_AIM_MS = 250
CANARY_P99_MAX_MS = 10 * CANARY_P99_AIM_MS
LANES = 12
# What bytes can leave behind by right, such as a retained message for each topic that a mutation made, is to be little.
LIMITS = {"MAGPIE_CLUSTER__ROUTE_LINGER": "1s", "MAGPIE_CLUSTER__SESSIONS_MAX": "400", "MAGPIE_CLUSTER__RETAINED_MAX": "800",
          "MAGPIE_CLUSTER__RETAINED_BYTES_MAX": "4MiB", "MAGPIE_SESSION__SESSION_EXPIRY_MAX": "60s",
          # Where each entry of the log is, is kept in memory as long as the entry is on disk.
          "MAGPIE_CLUSTER__LOG_RETAIN": "1s", "MAGPIE_CLUSTER__LOG_RETAIN_BYTES": "64KiB"}
# A node keeps the newest 64 MiB of its log in memory, which are filled before it is measured.
LOG_FILLED_BYTES = 120_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--magpie", required=True, help="the binary")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=1 / 3, help="for all seeds together")
    parser.add_argument("--seeds", type=int, default=1, help="so many, the first of them --seed")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    suite = Suite("bytefuzz", arguments.seed)
    seconds = 60 * arguments.minutes / arguments.seeds
    for seed in range(suite.seed, suite.seed + arguments.seeds):
        suite.step(f"seed {seed}, {seconds:.0f} s", fuzz, arguments.magpie, seed, seconds)
    suite.step("configuration files", configurations, arguments.magpie, suite.random)
    return suite.end()


def configurations(magpie, source):
    """Each is good or has problems, which are told; none ends the check in another way."""
    codes, environment = {}, {"MAGPIE_CLUSTER_SECRET": "0123456789abcdef" * 4, "PATH": os.environ["PATH"]}
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        for number in range(CONFIGURATIONS):
            lines = CONFIGURATION.splitlines(keepends=True)
            text = CONFIGURATION if number == 0 else b"".join(mutated(source, lines))
            Path(file.name).write_bytes(text)
            ended = subprocess.run([magpie, "check-config", "--config", file.name], stdin=subprocess.DEVNULL, capture_output=True, timeout=20,
                                   env=environment)
            codes[ended.returncode] = codes.get(ended.returncode, 0) + 1
            check(ended.returncode in (0, 1) and b"panicked" not in ended.stderr, f"ended with {ended.returncode} for {text!r}: {ended.stderr[-500:]}")
            check(ended.returncode == 0 or number > 0, f"the one without a mistake: {ended.stderr}")
            check(ended.returncode == 0 or ended.stderr.strip(), f"not told what is wrong with {text!r}")
    return f"{codes.get(0, 0)} good, {codes.get(1, 0)} with problems"


CONFIGURATIONS = 200
CONFIGURATION = b"""node_name = "one"
seeds = ["a:7883", "b:7883"]
partitions = 8
proxy_protocol = true
allow_anonymous = false
log_format = "json"
mqtt_listen = "127.0.0.1:1883"

[connection]
write_buffer = "256KiB"

[session]
connect_timeout = "10s"
receive_maximum = 256
session_expiry_max = "7days"

[cluster]
heartbeat = "200ms"
retention = [{ filter = "telemetry/#", age = "1h", bytes = "1GiB" }, { filter = "a/+", age = '10m' }]
"""


def fuzz(magpie, seed, seconds):
    doors = Doors(magpie, TRANSPORTS[1:], count=1)
    cluster, doors = doors.cluster, {transport: ports[0] for transport, ports in doors.doors.items()}
    node = cluster.nodes[0]
    node.environment = LIMITS
    with cluster:
        fill_log(node)
        canary, flow = Canary(node.mqtt), Flow(node)
        try:
            time.sleep(2)
            before = memory(node)
            (Path(f"/proc/{node.process.pid}") / "clear_refs").write_text("5")
            canary.figures()
            until = time.monotonic() + seconds
            lanes = [Lane(doors, random.Random(f"{seed} {number}"), until) for number in range(LANES)]
            worst, at_half, late = {"p99_ms": 0, "max_ms": 0}, 0.0, 0
            while any(lane.thread.is_alive() for lane in lanes):
                time.sleep(1)
                check(node.process.poll() is None, f"the node has ended with {node.process.returncode}:\n{node.log_tail()}\n{last_of(lanes)}")
                if until - time.monotonic() > seconds / 2:
                    at_half = memory(node, "VmHWM") - before
                if (until - time.monotonic()) % 5 < 1:
                    sung = canary.figures()
                    check(sung["lost"] == 0 and sung["ends"] == 0, f"the canary was not served: {sung}\n{last_of(lanes)}")
                    late += (sung["p99_ms"] or 0) > CANARY_P99_MAX_MS
                    # A machine can stand still once.
                    check(late < 2, f"the canary waited {sung['p99_ms']} ms, for the second time\n{last_of(lanes)}")
                    worst = {name: max(worst[name], sung[name] or 0) for name in worst}
            peak = memory(node, "VmHWM") - before
            told = flow.end()
            flow.stop()
            behind = left_behind(node)
            wait_until("the connections are gone", 30, lambda: node.status()["connections"] <= 1)
            check("panicked" not in node.log.read_text(errors="replace"), f"a panic:\n{node.log_tail()}\n{last_of(lanes)}")
        finally:
            flow.stop()
            canary.close()
        check(peak <= GROWS_MIB or seconds > 120 and peak - at_half <= GROWS_MIB / 4, f"grew by {peak:.1f} MiB, {at_half:.1f} of them in the first half, more than {GROWS_MIB}; {left_behind(node)}")
        for lane in lanes:
            if lane.error:
                raise lane.error
        node.stop()
    late = " (over the aim of 250 ms)" if worst["p99_ms"] > CANARY_P99_AIM_MS else ""
    return (f"{sum(lane.count for lane in lanes)} conversations, {sum(lane.bytes for lane in lanes) / 1e6:.1f} MB, "
            f"{sum(lane.greeted for lane in lanes)} let in; grew by {peak:.1f} MiB, {at_half:.1f} of them in the first half (bound {GROWS_MIB}); "
            f"canary p99 {worst['p99_ms']} ms{late}, worst {worst['max_ms']} ms; {told}; {behind}")


def memory(node, field="VmRSS"):
    """In MiB."""
    for line in Path(f"/proc/{node.process.pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise Failure("the node has ended")


def left_behind(node):
    """What the node holds, in words."""
    status = node.status()
    holds = [group["holds"] for group in status["groups"] if group["holds"]]
    sums = {name: sum(hold[name] for hold in holds) for name in holds[0] if isinstance(holds[0][name], int)}
    return f"{status['filters']} filters, {sums}"


def fill_log(node):
    """With messages of which nobody wants any."""
    writer, payload = connected(node.mqtt, "filler"), b"x" * 10_000
    for start in range(0, LOG_FILLED_BYTES // 10_000, 100):
        writer.send(b"".join(publish(f"filled/{number}", payload, 1, number + 1) for number in range(100)))
        for _ in range(100):
            writer.expect(packets.PUBACK)
    writer.close(True)


def last_of(lanes):
    return "\n".join(f"last of lane {number}: {[part.hex() for part in lane.last]}"[:2000] for number, lane in enumerate(lanes))


class Lane:
    """Holds one conversation after the other."""

    def __init__(self, doors, source, until):
        self.doors, self.random, self.until = doors, source, until
        self.count = self.bytes = self.greeted = 0
        self.last, self.error = [], None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while time.monotonic() < self.until:
                self.count += 1
                self._converse()
        except Exception as error:  # noqa: BLE001 - told by who waits for the end
            self.error = error

    def _converse(self):
        version = self.random.choice((4, 5))
        # Four of them, so that sessions are taken over and resumed.
        name = f"fuzz-{self.random.randrange(4)}"
        greeting = connect(name, version, self.random.random() < 0.7, self.random.choice((0, 1, 60)), **random_connect(self.random, version))
        talk = [random_packet(self.random, version) for _ in range(self.random.randrange(1, 12))]
        # Before CONNECT, and after.
        is_greeted = self.random.random() < 0.7
        if is_greeted:
            parts = mutated(self.random, talk)
        else:
            parts = mutated(self.random, [greeting, *talk])
        way = self.random.choice(("tcp", "tcp", "ws", "below"))
        if way == "below":
            return self._below(greeting, parts)
        self.last = [greeting, *parts] if is_greeted else parts
        try:
            raw = Raw(self.doors[way], greeting if is_greeted else b"")
        except Closed as error:
            raise Failure(f"no connection: {error}") from error
        try:
            if is_greeted:
                try:
                    self.greeted += raw.expect(CONNACK, seconds=10)[1] == 0
                except TimeoutError:
                    raise Failure(f"no CONNACK within 10 s for {greeting.hex()}") from None
            for part in parts:
                self.bytes += len(part)
                raw.send(part)
                if self.random.random() < 0.05:
                    time.sleep(0.01)
            if self.random.random() < 0.5:
                raw.until_closed(self.random.choice((0.0, 0.005, 0.05)))
        except Closed:
            pass
        finally:
            raw.close(self.random.random() < 0.2)


    def _below(self, greeting, parts):
        """Bytes where a handshake should be, or after one in place of frames."""
        door = self.doors[self.random.choice(("ws", "ws", "wss", "tls"))]
        masked = [self._frame(one) for one in (greeting, *parts)]
        begun = [UPGRADE] if self.random.random() < 0.7 else []
        self.last = mutated(self.random, [*begun, *masked] if begun or door.transport == "ws" else [greeting, *parts])
        # To ports with TLS now and then inside of it, else in its place.
        try:
            raw = Raw(int(door))
        except Closed as error:
            raise Failure(f"no connection: {error}") from error
        try:
            if door.is_tls and self.random.random() < 0.5:
                raw.socket = ssl.create_default_context(cafile=door.ca).wrap_socket(raw.socket, server_hostname="127.0.0.1")
            for part in self.last:
                self.bytes += len(part)
                raw.send(part)
            if self.random.random() < 0.5:
                raw.socket.settimeout(0.01)
                raw.socket.recv(4096)
        except (Closed, OSError):
            pass
        finally:
            raw.close()

    def _frame(self, payload):
        opcode = self.random.choice((0x82, 0x82, 0x82, 0x02, 0x00, 0x80, 0x81, 0x88, 0x89, 0x8A, self.random.randrange(256)))
        length = len(payload) if self.random.random() < 0.9 else self.random.choice((0, 1, 125, 126, 65_535, 65_536, 1 << 20, 1 << 62))
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2) if length < 65_536 else b"\xff" + length.to_bytes(8)
        mask = self.random.choice((b"\0\0\0\0", b"mask"))
        return bytes((opcode,)) + size + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload[:2000])) + payload[2000:]


UPGRADE = (f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n").encode()


class Flow:
    """Messages of QoS 1 to a session that sleeps every now and then."""

    def __init__(self, node):
        self.node, self.running = node, True
        self.acknowledged, self.got, self.error = set(), [], None
        self.reader = threading.Thread(target=self._guard, args=(self._read,), daemon=True)
        self.subscribed = threading.Event()
        self.reader.start()
        check(self.subscribed.wait(20), f"no SUBACK: {self.error}")
        self.writer = Patient("flow-writer", [node.mqtt], [], 5)
        self.publisher = threading.Thread(target=self._guard, args=(self._write,), daemon=True)
        self.publisher.start()

    def _guard(self, function):
        try:
            function()
        except Exception as error:  # noqa: BLE001 - told in end()
            self.error = error

    def _write(self):
        number = 0
        while self.running:
            number += 1
            self.writer.publish("flow/x", str(number).encode())
            self.acknowledged.add(number)
            time.sleep(0.005)

    def _read(self):
        while self.running or not self.acknowledged <= set(self.got):
            raw = connected(self.node.mqtt, "flow-reader", clean=False, properties=packets.session_expiry(3600))
            if not self.subscribed.is_set():
                raw.send(subscribe(["flow/x"], qos=2))
                raw.expect(SUBACK)
                self.subscribed.set()
            until = time.monotonic() + 2
            while time.monotonic() < until:
                try:
                    first, body = raw.take(max(until - time.monotonic(), 0.001))
                except TimeoutError:
                    break
                if first >> 4 == PUBLISH and first >> 1 & 3:
                    end = 2 + int.from_bytes(body[:2])
                    self.got.append(int(body[end + 3:]))
                    raw.send(packets.acknowledge(packets.PUBACK if first >> 1 & 3 == 1 else PUBREC, int.from_bytes(body[end:end + 2])))
                elif first >> 4 == PUBREL:
                    raw.send(packets.acknowledge(packets.PUBCOMP, int.from_bytes(body[:2])))
            raw.close()
            time.sleep(0.3 if self.running else 0)

    def end(self):
        """Waits until all that was acknowledged is there."""
        self.running = False
        self.publisher.join(60)
        self.reader.join(60)
        check(not self.error, f"beside it: {self.error!r}")
        missing = self.acknowledged - set(self.got)
        check(not missing, f"{len(missing)} of {len(self.acknowledged)} acknowledged messages are lost, such as {sorted(missing)[:5]}")
        return f"{len(self.acknowledged)} acknowledged beside it, all there"

    def stop(self):
        self.running = False
        self.writer.stopping.set()
        self.writer.lost.set()


# --- valid packets


def random_connect(source, version):
    options = {}
    if source.random() < 0.3:
        options["will"] = (topic(source), source.randbytes(source.randrange(100)), source.randrange(3), source.random() < 0.5)
    if source.random() < 0.2:
        options["username"] = "user"
        options["password"] = source.choice((None, b"secret"))
    if version == 5:
        wanted = [packets.session_expiry(source.choice((0, 1, 2))), packets.receive_maximum(source.choice((1, 10, 65_535))),
                  b"\x27" + source.choice((10, 1000, 1 << 20)).to_bytes(4), b"\x22\x00\x0a", b"\x19\x01", b"\x17\x00",
                  packets.user_property("a", "b"), b"\x15" + packets.text("SCRAM-SHA-256") + b"\x16" + packets.text("n,,n=user,r=nonce")]
        options["properties"] = b"".join(one for one in wanted[:-1] if source.random() < 0.3) + (wanted[-1] if source.random() < 0.05 else b"")
    return options


def topic(source):
    return source.choice(("fuzz/a", "fuzz/b/c", "fuzz", "/", "$SYS/x", "fuzz/" + "x/" * source.randrange(130), "fuzz/\u00e9\ufeff", "fuzz/a" * 100))


def filter_of(source):
    return source.choice(("fuzz/#", "fuzz/+", "+/+", "$share/g/fuzz/#", "$share/g/", "$share//x", "fuzz/+/c/#", "/", "#/x", "a+", "fuzz/a", "+/" * 60 + "#"))


def random_packet(source, version):
    packet_id = source.choice((0, 1, 2, 3, source.randrange(65_536)))
    kind = source.randrange(12)
    if kind < 4:
        wanted = [b"\x01\x01", b"\x02\x00\x00\x00\x05", packets.topic_alias(source.randrange(40)), b"\x08" + packets.text("fuzz/reply"),
                  b"\x09" + packets.text(b"\0\1"), packets.user_property("k", "v"), b"\x03" + packets.text("text/plain"), b"\x0b\x05"]
        made = b"".join(one for one in wanted[:-1] if source.random() < 0.2) + (wanted[-1] if source.random() < 0.05 else b"")
        name = "" if source.random() < 0.1 else topic(source)
        payload = source.randbytes(source.choice((0, 1, 10, 100, 20_000)))
        return publish(name, payload, source.randrange(3), packet_id, version, source.random() < 0.1, source.random() < 0.1, made)
    if kind < 6:
        made = b"\x0b" + packets.varint(source.choice((1, 0, 268_435_455))) if source.random() < 0.3 else b""
        return subscribe([filter_of(source) for _ in range(source.randrange(5))], packet_id, source.randrange(64), version, made)
    if kind == 6:
        return unsubscribe([filter_of(source) for _ in range(source.randrange(4))], packet_id, version)
    if kind == 7:
        return packets.acknowledge(source.choice((packets.PUBACK, PUBREC, PUBREL, packets.PUBCOMP)), packet_id)
    if kind == 8:
        return packets.PING
    if kind == 9:
        return source.choice((packets.GOODBYE, packets.packet(packets.DISCONNECT, b"\x04\x05\x11\x00\x00\x00\x05"), packets.packet(packets.AUTH, b""),
                              packets.packet(packets.AUTH, b"\x18\x00"), packets.packet(packets.AUTH, b"\x19" + packets.varint(6) + b"\x15" + packets.text("abc"))))
    if kind == 10:
        return connect("fuzz-0", version)
    return packets.packet(source.randrange(16), source.randbytes(source.randrange(30)), source.randrange(16))


# --- mutations


def mutated(source, talk):
    """The packets as bytes that go out one after the other, mutated in some way."""
    talk = list(talk)
    for _ in range(source.choice((0, 1, 1, 1, 2, 5))):
        at = source.randrange(len(talk))
        talk[at] = source.choice(MUTATIONS)(source, talk[at], talk)
    way = source.randrange(6)
    stream = b"".join(talk)
    if way == 0:
        return [stream]
    if way == 1 and len(stream) < 2000:
        return [stream[at:at + 1] for at in range(len(stream))]
    if way == 2:
        return [stream[:source.randrange(len(stream) + 1)]]
    if way == 3 and len(stream) > 1:
        cut = source.randrange(len(stream))
        return [stream[:cut], stream[cut:]]
    return talk


def flip_bits(source, one, _):
    changed = bytearray(one)
    for _ in range(source.choice((1, 1, 2, 8))):
        if changed:
            # The head of a packet is where meaning is.
            changed[min(source.randrange(len(changed)), source.choice((5, 20, 1 << 20)), len(changed) - 1)] ^= 1 << source.randrange(8)
    return bytes(changed)


def cut_off(source, one, _):
    return one[:source.randrange(len(one) + 1)]


def repeat(source, one, _):
    return one * source.choice((2, 3, 50))


def repeat_part(source, one, _):
    begin, end = sorted((source.randrange(len(one) + 1), source.randrange(len(one) + 1)))
    return one[:end] + one[begin:]


def drop_part(source, one, _):
    begin = source.randrange(len(one) + 1)
    return one[:begin] + one[begin + source.randrange(8):]


def splice(source, one, talk):
    other = source.choice(talk)
    return one[:source.randrange(len(one) + 1)] + other[source.randrange(len(other) + 1):]


def lie_of_length(source, one, _):
    """The Remaining Length, or a length inside."""
    if source.random() < 0.5 or len(one) < 6:
        lie = source.choice((0, 1, 127, 128, 16_384, 1 << 20, (1 << 20) - 5, 268_435_455))
        return one[:1] + source.choice((packets.varint(lie), b"\xff\xff\xff\xff\x01", b"\x80\x00", b"\xff" * 4)) + one[2:]
    at = source.randrange(2, len(one) - 2)
    return one[:at] + source.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\x80\0")) + one[at + 2:]


def random_bytes(source, one, _):
    at = source.randrange(len(one) + 1)
    return one[:at] + source.randbytes(source.choice((1, 4, 64, 4096))) + one[at:]


def odd_text(source, one, _):
    """Bytes that are no text of MQTT: NUL, surrogates, overlong forms, what is beyond Unicode."""
    at = source.randrange(len(one) + 1)
    odd = source.choice((b"\0", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xef\xbb\xbf", b"\xef\xbf\xbf", b"+", b"#", b"/" * 200))
    return one[:at] + odd + one[at + len(odd):]


MUTATIONS = (flip_bits, flip_bits, flip_bits, cut_off, repeat, repeat_part, drop_part, splice, lie_of_length, lie_of_length, random_bytes, odd_text)


if __name__ == "__main__":
    sys.exit(main())
