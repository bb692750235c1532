"""A network of namespaces on this machine: one for each node, and one with the bridge between them, where packets can be dropped."""

import os
import subprocess

from report import check


class Network:
    """Each node's namespace hangs on the bridge by a pair of virtual interfaces, and so does this machine, which the clients run on.

    A cut drops the packets between two nodes, in one direction, silently, and counts them. What passes all the same is counted, too.
    """

    def __init__(self, count=3):
        self.name = f"mq{os.getpid()}"
        self.net = f"10.{119 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
        self.hosts = [f"{self.net}.{number + 1}" for number in range(count)]
        self.namespaces = [f"{self.name}-{number + 1}" for number in range(count)]
        self.hub = f"{self.name}-hub"
        self.cuts = set()

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _build(self):
        run("ip", "netns", "add", self.hub)
        self._in_hub("ip", "link", "add", "bridge", "type", "bridge")
        self._in_hub("ip", "link", "set", "bridge", "up")
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "clients", "netns", self.hub)
        run("ip", "addr", "add", f"{self.net}.254/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")
        self._join_bridge("clients")
        for number, (host, namespace) in enumerate(zip(self.hosts, self.namespaces)):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"node{number + 1}", "netns", self.hub)
            run("ip", "-n", namespace, "addr", "add", f"{host}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", namespace, "link", "set", device, "up")
            self._join_bridge(f"node{number + 1}")
        self._set_rules()

    def _join_bridge(self, device):
        self._in_hub("ip", "link", "set", device, "master", "bridge")
        self._in_hub("ip", "link", "set", device, "up")

    def __exit__(self, kind, error, trace):
        # The interfaces go with their namespaces.
        for namespace in (*self.namespaces, self.hub):
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL, check=False)

    def cut(self, *pairs):
        """From now on nothing passes from the first to the second of each pair of hosts."""
        self.cuts |= set(pairs)
        self._set_rules()

    def heal(self):
        self.cuts.clear()
        self._set_rules()

    def counts(self):
        """Of each cut pair: how many packets were dropped, and how many passed, since the cut."""
        told = self._in_hub("nft", "list", "table", "bridge", "cuts")
        counts = {}
        for line in told.splitlines():
            words = line.split()
            if "counter" in words:
                pair = words[words.index("saddr") + 1], words[words.index("daddr") + 1]
                packets = int(words[words.index("packets") + 1])
                dropped, passed = counts.get(pair, (0, 0))
                counts[pair] = (packets, passed) if "drop" in words else (dropped, packets)
        return counts

    def check_cut(self):
        """Every cut pair tried, and nothing passed. Answers how many packets were dropped."""
        counts = self.counts()
        check(set(counts) == self.cuts, f"cut are {self.cuts}, counted {counts}")
        for pair, (dropped, passed) in counts.items():
            check(dropped > 0, f"nobody sent from {pair[0]} to {pair[1]} during the cut")
            check(passed == 0, f"{passed} packets passed from {pair[0]} to {pair[1]} during the cut")
        return sum(dropped for dropped, _ in counts.values())

    def _set_rules(self):
        dropped = "\n".join(f"ip saddr {a} ip daddr {b} counter drop" for a, b in sorted(self.cuts))
        passed = "\n".join(f"ip saddr {a} ip daddr {b} counter" for a, b in sorted(self.cuts))
        self._in_hub("nft", "-f", "-", given=f"""
            table bridge cuts {{}}
            delete table bridge cuts
            table bridge cuts {{
                chain dropping {{ type filter hook forward priority 0; policy accept;
                    {dropped}
                }}
                chain passing {{ type filter hook forward priority 10; policy accept;
                    {passed}
                }}
            }}
        """)

    def _in_hub(self, *command, given=None):
        return run("ip", "netns", "exec", self.hub, *command, given=given)


def run(*command, given=None):
    """What the command printed; fails with what it said."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=20, check=False)
    check(done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
