"""A balancer in front of the nodes: HAProxy as in deploy/compose where it is installed, else a few lines that do the same for a test."""

import asyncio
import itertools
import shutil
import socket
import subprocess
import tempfile
import threading

from nodes import free_ports, http
from report import wait_until


def balancer(nodes):
    """The best one that this machine has, as a context manager with a `port`."""
    return HaProxy(nodes) if shutil.which("haproxy") else RoundRobin(nodes)


class HaProxy:
    """The parts of deploy/compose/haproxy.cfg that matter without containers. No PROXY protocol: nodes of a test do not expect it."""

    def __init__(self, nodes):
        self.port = free_ports(1)
        servers = "\n".join(
            f"    server {node.name} 127.0.0.1:{node.mqtt} check port {node.http} inter 500 fall 2 rise 1" for node in nodes)
        self.configuration = tempfile.NamedTemporaryFile("w", prefix="magpie-haproxy-", suffix=".cfg")
        self.configuration.write(f"""
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    retries 3
    option redispatch 1
frontend mqtt
    bind 127.0.0.1:{self.port}
    default_backend nodes
backend nodes
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
{servers}
""")
        self.configuration.flush()

    def __enter__(self):
        self.process = subprocess.Popen(["haproxy", "-q", "-db", "-f", self.configuration.name], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("HAProxy listens", 10, lambda: can_connect(self.port))
        return self

    def __exit__(self, kind, error, trace):
        self.process.terminate()
        self.process.wait(10)
        self.configuration.close()

    def __str__(self):
        return "HAProxy"


class RoundRobin:
    """Copies bytes between a client and the next node that says it is ready."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.port = free_ports(1)
        self.turns = itertools.cycle(range(len(nodes)))
        self.loop = asyncio.new_event_loop()

    def __enter__(self):
        threading.Thread(target=self._run, daemon=True).start()
        wait_until("the balancer listens", 10, lambda: can_connect(self.port))
        return self

    def __exit__(self, kind, error, trace):
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.loop.run_forever()

    async def _serve(self, reader, writer):
        for _ in self.nodes:
            node = self.nodes[next(self.turns)]
            status, _ = await asyncio.to_thread(http, node.http, "/readyz")
            if status != 200:
                continue
            try:
                node_reader, node_writer = await asyncio.open_connection("127.0.0.1", node.mqtt)
            except OSError:
                continue
            await asyncio.gather(copy(reader, node_writer), copy(node_reader, writer), return_exceptions=True)
            return
        writer.close()

    def __str__(self):
        return "the test's own balancer"


async def copy(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def can_connect(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
