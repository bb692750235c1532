"""Ports of nodes, and what is spoken there: MQTT over TCP, TLS, WebSocket, or WebSocket over TLS; and bare connections over each."""

import base64
import hashlib
import os
import socket
import ssl
import struct
import subprocess

from nodes import Cluster, free_ports

TRANSPORTS = ("tcp", "tls", "ws", "wss")
PATH = "/mqtt"
FLAGS = {"tls": "--mqtts-listen", "ws": "--ws-listen", "wss": "--wss-listen"}


class Door(int):
    """A port number; whoever does not care about transports uses it as one."""

    def __new__(cls, port, transport="tcp", ca=None):
        door = super().__new__(cls, port)
        door.transport, door.ca = transport, ca
        return door

    @classmethod
    def of(cls, port):
        return port if isinstance(port, cls) else cls(port)

    @property
    def is_tls(self):
        return self.transport in ("tls", "wss")

    @property
    def is_websocket(self):
        return self.transport in ("ws", "wss")

    @property
    def url(self):
        """As MQTT.js takes it."""
        scheme = {"tcp": "mqtt", "tls": "mqtts"}.get(self.transport, self.transport)
        return f"{scheme}://127.0.0.1:{int(self)}" + (PATH if self.is_websocket else "")

    def open(self, seconds=10):
        """A connection on which whole MQTT packets, or parts of them, are sent by `sendall` and come by `recv`."""
        opened = socket.create_connection(("127.0.0.1", int(self)), seconds)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.is_tls:
            opened = ssl.create_default_context(cafile=self.ca).wrap_socket(opened, server_hostname="127.0.0.1")
        return WebSocket(opened, self) if self.is_websocket else opened


class WebSocket:
    """A client's side of one, as far as tests need it: it sends binary frames, and takes off the heads of those that come."""

    def __init__(self, opened, door):
        self.socket, self.left, self.payload_left = opened, b"", 0
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{int(door)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = self.socket.recv(4096)
            if not more:
                raise ConnectionError(f"closed in the handshake after {head!r}")
            head += more
        head, self.left = head.split(b"\r\n\r\n", 1)
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if not head.startswith(b"HTTP/1.1 101") or accept not in head or b"mqtt" not in head.lower():
            raise ConnectionError(f"no WebSocket: {head!r}")

    def sendall(self, data, opcode=2, is_last=True):
        mask = os.urandom(4)
        length = len(data)
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + struct.pack("!H", length) if length < 65_536 else b"\xff" + struct.pack("!Q", length)
        key = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
        self.socket.sendall(bytes((0x80 * is_last | opcode,)) + size + mask + masked)

    def recv(self, size):
        """Bytes of MQTT; none when the node closes, by a frame or without."""
        while True:
            if self.payload_left and self.left:
                taken = self.left[:min(size, self.payload_left)]
                self.left, self.payload_left = self.left[len(taken):], self.payload_left - len(taken)
                return taken
            if not self.payload_left and len(self.left) >= 2:
                opcode, length, at = self.left[0] & 15, self.left[1] & 127, 2
                extended = {126: 2, 127: 8}.get(length, 0)
                if len(self.left) >= 2 + extended:
                    if extended:
                        length, at = int.from_bytes(self.left[2:2 + extended], "big"), 2 + extended
                    if opcode == 8:
                        return b""
                    if opcode in (9, 10):
                        # Of no matter to a test, and never longer than what was read with it.
                        self.left = self.left[at + length:]
                        continue
                    self.left, self.payload_left = self.left[at:], length
                    continue
            more = self.socket.recv(262_144)
            if not more:
                return b""
            self.left += more

    def settimeout(self, seconds):
        self.socket.settimeout(seconds)

    def setblocking(self, blocking):
        self.socket.setblocking(blocking)

    def fileno(self):
        return self.socket.fileno()

    def close(self):
        self.socket.close()


class Doors:
    """Nodes of which each listens on every transport, with a certificate made for them; one of the transports is looked at."""

    def __init__(self, magpie, transports=TRANSPORTS[1:], count=3):
        self.cluster = Cluster(magpie, count)
        self.doors = {"tcp": [Door(node.mqtt) for node in self.cluster.nodes]}
        self.mqtt = self.doors["tcp"]
        if not transports:
            return
        home = self.cluster.home
        self.ca = make_certificate(home)
        base = free_ports(len(transports) * len(self.cluster.nodes))
        for number, transport in enumerate(transports):
            ports = [base + number * len(self.cluster.nodes) + at for at in range(len(self.cluster.nodes))]
            self.doors[transport] = [Door(port, transport, self.ca) for port in ports]
            for node, port in zip(self.cluster.nodes, ports):
                node.arguments += [FLAGS[transport], f"127.0.0.1:{port}"]
        for node in self.cluster.nodes:
            node.arguments += ["--tls-cert", str(home / "server.pem"), "--tls-key", str(home / "server.key")]

    def through(self, transport):
        """From here on, `mqtt` are the doors of this transport."""
        self.mqtt = self.doors[transport]
        return self

    def stop(self):
        return max(node.stop() for node in self.cluster.nodes)

    def __enter__(self):
        self.cluster.__enter__()
        return self

    def __exit__(self, *error):
        self.cluster.__exit__(*error)


def make_certificate(home):
    """A certificate authority in `ca.pem`, and a certificate for this machine in `server.pem` and `server.key`; answers the first."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=home, stdin=subprocess.DEVNULL)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=magpie test",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-new", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (home / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "extensions", "-out", "server.pem")
    return home / "ca.pem"
