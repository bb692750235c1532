"""An MQTT 3.1.1 client of which a test decides every packet: it sends what it is told to, and hands over what comes, one by one."""

import socket
import struct
import time
from collections import namedtuple

from report import Failure, check

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, DISCONNECT = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14
NAMES = {CONNACK: "CONNACK", PUBLISH: "PUBLISH", PUBACK: "PUBACK", PUBREC: "PUBREC", PUBREL: "PUBREL", PUBCOMP: "PUBCOMP", SUBACK: "SUBACK",
         UNSUBACK: "UNSUBACK"}

# `packet_id` of all but CONNACK; `topic` and what follows of PUBLISH; `code` of CONNACK, SUBACK; `present` of CONNACK.
Packet = namedtuple("Packet", "kind packet_id topic payload qos dup retain code present", defaults=(None,) * 8)


class Lost(Exception):
    """The connection is gone."""


class Wire:
    """One connection. Every error of the socket is `Lost`."""

    def __init__(self, node, client_id, clean=False, seconds=12):
        """Connects, and waits for CONNACK; `present` is what that says."""
        self.node, self.client_id = node, client_id
        self.read = b""
        try:
            self.socket = socket.create_connection((node.host, node.mqtt), 2)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise Lost(str(error)) from error
        try:
            self._send(CONNECT << 4, text("MQTT") + bytes((4, 2 * clean)) + struct.pack("!H", 60) + text(client_id))
            connack = self.expect(CONNACK, seconds)
        except Lost:
            self.close()
            raise
        if connack.code:
            self.close()
            raise Lost(f"CONNACK {connack.code}")
        self.present = connack.present

    def publish(self, topic, payload, qos, packet_id, dup=False, retain=False):
        self._send(PUBLISH << 4 | dup << 3 | qos << 1 | retain, text(topic) + struct.pack("!H", packet_id) + payload)

    def acknowledge(self, kind, packet_id):
        """PUBACK, PUBREC, PUBREL or PUBCOMP."""
        self._send(kind << 4 | (2 if kind == PUBREL else 0), struct.pack("!H", packet_id))

    def subscribe(self, topic, qos=2):
        self._send(SUBSCRIBE << 4 | 2, struct.pack("!H", 1) + text(topic) + bytes((qos,)))

    def unsubscribe(self, topic):
        self._send(UNSUBSCRIBE << 4 | 2, struct.pack("!H", 2) + text(topic))
        self.expect(UNSUBACK)

    def disconnect(self):
        """In order; returns when the node has closed, so that nothing is on its way."""
        self._send(DISCONNECT << 4, b"")
        try:
            while True:
                self.take(2)
        except (Lost, TimeoutError):
            self.close()

    def close(self):
        self.socket.close()

    def take(self, seconds):
        """The next packet; TimeoutError if there is none for so long."""
        until = time.monotonic() + seconds
        while True:
            packet = self._decode()
            if packet:
                return packet
            self.socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                raise
            except OSError as error:
                raise Lost(str(error)) from error
            if not more:
                raise Lost("closed by the node")
            self.read += more

    def expect(self, kind, seconds=12, besides=None):
        """The next packet, which has to be of this kind. A PUBREL of the packet id `besides` may come before, and is answered."""
        try:
            packet = self.take(seconds)
            if besides is not None and (packet.kind, packet.packet_id) == (PUBREL, besides):
                self.acknowledge(PUBCOMP, besides)
                packet = self.take(seconds)
        except TimeoutError:
            raise Lost(f"no {NAMES[kind]} within {seconds} s") from None
        check(packet.kind == kind, f"{self.client_id}: {packet} in place of {NAMES[kind]}")
        return packet

    def _send(self, first, body):
        length, rest = b"", len(body)
        while True:
            rest, low = divmod(rest, 128)
            length += bytes((low | (128 if rest else 0),))
            if not rest:
                break
        try:
            self.socket.settimeout(5)
            self.socket.sendall(bytes((first,)) + length + body)
        except OSError as error:
            raise Lost(str(error)) from error

    def _decode(self):
        length = shift = 0
        for at in range(1, min(len(self.read), 5)):
            length |= (self.read[at] & 127) << shift
            shift += 7
            if self.read[at] < 128:
                break
        else:
            return None
        end = at + 1 + length
        if len(self.read) < end:
            return None
        first, body, self.read = self.read[0], self.read[at + 1:end], self.read[end:]
        kind = first >> 4
        if kind == CONNACK:
            return Packet(kind, code=body[1], present=bool(body[0] & 1))
        if kind == PUBLISH:
            topic_end = 2 + struct.unpack("!H", body[:2])[0]
            qos = first >> 1 & 3
            packet_id = struct.unpack("!H", body[topic_end:topic_end + 2])[0] if qos else None
            return Packet(kind, packet_id, body[2:topic_end].decode(), body[topic_end + 2 * (qos > 0):], qos, bool(first & 8),
                          bool(first & 1))
        if kind not in NAMES:
            raise Failure(f"{self.client_id}: a packet of kind {kind}")
        return Packet(kind, struct.unpack("!H", body[:2])[0], code=body[2] if kind == SUBACK else None)


def text(words):
    encoded = words.encode()
    return struct.pack("!H", len(encoded)) + encoded
