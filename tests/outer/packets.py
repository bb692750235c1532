"""Packets of MQTT 3.1.1 and 5.0 as bytes, right ones and ones that no client library would make, and a connection that sends them.

`version` is 4 for MQTT 3.1.1 and 5 for MQTT 5.0. Properties are bytes: those of the functions below, joined.
"""

import socket
import struct
import time

from doors import Door

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(1, 16)

PING = b"\xc0\x00"
GOODBYE = b"\xe0\x00"


def varint(number):
    encoded = b""
    while True:
        number, low = divmod(number, 128)
        encoded += bytes((low | (128 if number else 0),))
        if not number:
            return encoded


def text(words):
    encoded = words if isinstance(words, bytes) else words.encode()
    return struct.pack("!H", len(encoded)) + encoded


def packet(kind, body, flags=0):
    return bytes((kind << 4 | flags,)) + varint(len(body)) + body


def with_properties(version, properties):
    return varint(len(properties)) + properties if version == 5 else b""


def user_property(name, value):
    return b"\x26" + text(name) + text(value)


def session_expiry(seconds):
    return b"\x11" + struct.pack("!I", seconds)


def receive_maximum(count):
    return b"\x21" + struct.pack("!H", count)


def topic_alias(number):
    return b"\x23" + struct.pack("!H", number)


def connect(client_id, version=5, clean=True, keep_alive_s=60, properties=b"", will=None, will_properties=b"", username=None, password=None):
    """The will is a topic, a payload, a QoS and whether it is to be retained."""
    flags = 2 * clean
    fields = text(client_id)
    if will:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | retain << 5
        fields += with_properties(version, will_properties) + text(topic) + text(payload)
    for bit, words in ((0x80, username), (0x40, password)):
        if words is not None:
            flags |= bit
            fields += text(words)
    body = text("MQTT") + bytes((version, flags)) + struct.pack("!H", keep_alive_s) + with_properties(version, properties) + fields
    return packet(CONNECT, body)


def publish(topic, payload=b"", qos=0, packet_id=1, version=5, retain=False, dup=False, properties=b""):
    body = text(topic) + (struct.pack("!H", packet_id) if qos else b"") + with_properties(version, properties) + payload
    return packet(PUBLISH, body, dup << 3 | qos << 1 | retain)


def acknowledge(kind, packet_id):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return packet(kind, struct.pack("!H", packet_id), 2 if kind == PUBREL else 0)


def subscribe(filters, packet_id=1, qos=0, version=5, properties=b""):
    body = struct.pack("!H", packet_id) + with_properties(version, properties)
    return packet(SUBSCRIBE, body + b"".join(text(name) + bytes((qos,)) for name in filters), 2)


def unsubscribe(filters, packet_id=1, version=5, properties=b""):
    return packet(UNSUBSCRIBE, struct.pack("!H", packet_id) + with_properties(version, properties) + b"".join(map(text, filters)), 2)


def split(stream):
    """The whole packets at the beginning of these bytes, each as its first byte and its body, and what is left."""
    packets, at = [], 0
    while True:
        length = shift = 0
        for end in range(at + 1, min(len(stream), at + 5)):
            length |= (stream[end] & 127) << shift
            shift += 7
            if stream[end] < 128:
                break
        else:
            break
        if len(stream) < end + 1 + length:
            break
        packets.append((stream[at], stream[end + 1:end + 1 + length]))
        at = end + 1 + length
    return packets, stream[at:]


class Closed(Exception):
    """The node has closed the connection."""


class Raw:
    """One connection, on which whoever has it decides every byte of MQTT; to a port, or a `Door`. Every error of the socket is `Closed`."""

    def __init__(self, port, first=b"", host="127.0.0.1", receive_buffer=None):
        self.read = b""
        if isinstance(port, Door) and port.transport != "tcp":
            try:
                self.socket = port.open()
            except OSError as error:
                raise Closed(str(error)) from error
            if first:
                self.send(first)
            return
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(10)
        try:
            self.socket.connect((host, int(port)))
        except OSError as error:
            raise Closed(str(error)) from error
        if first:
            self.send(first)

    def send(self, data, seconds=10):
        self.socket.settimeout(seconds)
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Closed(str(error)) from error

    def take(self, seconds=20):
        """The next packet, as its first byte and its body; TimeoutError if there is none for so long."""
        until = time.monotonic() + seconds
        while True:
            packets, _ = split(self.read[:_end_of_first(self.read)])
            if packets:
                self.read = self.read[_end_of_first(self.read):]
                return packets[0]
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                more = self.socket.recv(262_144)
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from error
            if not more:
                raise Closed("by the node")
            self.read += more

    def expect(self, *kinds, seconds=20):
        """The body of the next packet that is one of these kinds; others are passed over."""
        until = time.monotonic() + seconds
        while True:
            first, body = self.take(max(until - time.monotonic(), 0.001))
            if first >> 4 in kinds:
                return body

    def until_closed(self, seconds):
        """After how many seconds the node closed, and the packets that came before; None and these, if it did not."""
        began, packets = time.monotonic(), []
        while (left := began + seconds - time.monotonic()) > 0:
            try:
                packets.append(self.take(left))
            except TimeoutError:
                break
            except Closed:
                return time.monotonic() - began, packets
        return None, packets

    def close(self, in_order=False):
        if in_order:
            try:
                self.send(GOODBYE)
            except Closed:
                pass
        self.socket.close()


def _end_of_first(stream):
    """Where the first packet ends, or would."""
    length = shift = 0
    for at in range(1, min(len(stream), 5)):
        length |= (stream[at] & 127) << shift
        shift += 7
        if stream[at] < 128:
            return at + 1 + length
    return len(stream)


def connected(port, client_id, version=5, **options):
    """A connection whose CONNECT was accepted."""
    receive_buffer = options.pop("receive_buffer", None)
    raw = Raw(port, connect(client_id, version, **options), receive_buffer=receive_buffer)
    body = raw.expect(CONNACK)
    if body[1]:
        raw.close()
        raise Closed(f"CONNACK {body[1]:#x}")
    return raw
