"""Disks that lose power: each node's data directory on a file system of its own, in an image that is mounted by loop.

What a process wrote and did not sync is in the page cache of the mounted file system, and not in the image. So a copy of the image, made
while the process stands still, is the disk after a loss of power at that moment.
"""

import os
import shutil
import subprocess

from report import check

IMAGE_BYTES = 3 << 30
CANARY = "canary"
# The journal is not committed by time: only what is synced is sure to be on the disk.
OPTIONS = "loop,commit=600"


def why_not():
    """Why there can be no such disks here; empty if there can."""
    if os.geteuid() != 0:
        return "mounting an image needs root"
    for tool in ("losetup", "mkfs.ext4", "mount"):
        if not shutil.which(tool):
            return f"there is no {tool}"
    if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0:
        return "there is no free loop device"
    return ""


class Disk:
    """The file system that a node's data directory is on."""

    def __init__(self, node, home, image_bytes):
        self.node = node
        self.mount_point = home / f"{node.name}-disk"
        self.life = 0
        self.home = home
        self.mount_point.mkdir()
        with self._image().open("wb") as image:
            image.truncate(image_bytes)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", str(self._image()))
        self._mount()

    def _image(self):
        return self.home / f"{self.node.name}-{self.life}.img"

    def _mount(self):
        run("mount", "-o", OPTIONS, str(self._image()), str(self.mount_point))

    def write_canary(self):
        """A file that nobody syncs: it must not outlive the loss of power."""
        (self.mount_point / CANARY).write_bytes(b"not synced" * 1000)
        check((self.mount_point / CANARY).stat().st_size == 10_000, "the canary is not there before the loss of power")

    def copy(self):
        """The disk as it would be found now. The process has to stand still."""
        old = self._image()
        self.life += 1
        run("cp", "--sparse=always", str(old), str(self._image()))

    def replace(self):
        """Mounts the copy in place of the disk. The process has to be gone. Answers how much of the canary is left, in bytes."""
        run("umount", str(self.mount_point))
        self._mount()
        (self.home / f"{self.node.name}-{self.life - 1}.img").unlink()
        canary = self.mount_point / CANARY
        left = canary.stat().st_size if canary.exists() else 0
        canary.unlink(missing_ok=True)
        return left

    def remove(self):
        subprocess.run(["umount", "-l", str(self.mount_point)], stderr=subprocess.DEVNULL, check=False)


class Disks:
    """One for each node of a cluster that has not been started. As a context manager it unmounts them."""

    def __init__(self, cluster, image_bytes=IMAGE_BYTES):
        self.by_node = {}
        self.image_bytes = image_bytes
        self.cluster = cluster

    def __enter__(self):
        try:
            for node in self.cluster.nodes:
                disk = Disk(node, self.cluster.home, self.image_bytes)
                self.by_node[node] = disk
                node.set_directory(disk.mount_point / "data")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind, error, trace):
        for disk in self.by_node.values():
            disk.remove()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}")
