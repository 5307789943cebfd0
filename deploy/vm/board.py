"""The emulated board: a virtual machine, its disk, a root shell in it, and a power switch that can be pulled."""

import contextlib
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

SECTOR, BLOCK = 512, 8  # bytes, and sectors
LOG_MAGIC = 0x6A736677736872
FLUSH, DISCARD = 1, 4
# Where the guest itself is; the addresses of QEMU's user network.
ADDRESS = "10.0.2.15"


class Failed(Exception):
    """A command, a condition or an expectation that did not come true; its text is for the transcript."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what: str, condition, within: float = 120, pause: float = 1):
    """Asks until the condition gives something true, which is returned; `Failed` tells what was seen last."""
    end, last = time.monotonic() + within, None
    while True:
        try:
            last = condition()
            if last:
                return last
        except (Failed, OSError, ValueError, KeyError) as error:
            last = error
        if time.monotonic() > end:
            raise Failed(f"not within {within:.0f} s: {what}; seen last: {last}")
        time.sleep(pause)


MACHINES = {
    # The processor of a Raspberry Pi 5.
    "arm64": ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a76", "-accel", "tcg,thread=multi"],
    "amd64": ["qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg,thread=multi"],
}
CONSOLES = {"arm64": "ttyAMA0", "amd64": "ttyS0"}


class Board:
    """One machine. Its disk is a copy of the image's root and lives for one run."""

    def __init__(self, image: Path, work: Path, arch: str):
        self.image, self.work, self.arch = image, work, arch
        work.mkdir(parents=True, exist_ok=True)
        self.disk, self.scratch, self.log = work / "disk.img", work / "scratch.qcow2", work / "writes.log"
        self.console = work / "console.log"
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image / "root.img", self.disk], check=True)
        # Paths of sockets are short, so they have a folder of their own.
        self.sockets = tempfile.mkdtemp(prefix="board-")
        self.ssh_port, self.http_port = free_port(), free_port()
        self.qemu = self.shell = None
        self.logging = False

    # Power.

    def boot(self, log_writes: bool = False) -> float:
        """Switches it on and waits for its shell; gives the seconds that took.

        With `log_writes` the disk is left alone: writes go to a layer above it that is thrown away, and QEMU's
        blklogwrites notes them in order with every flush, so that `cut_power` can decide what the disk got.
        """
        if log_writes:
            self.log.unlink(missing_ok=True)
            self.log.touch()
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.disk.resolve(), "-F", "raw",
                            self.scratch], check=True)
            disks = [f"driver=qcow2,node-name=scratch,file.driver=file,file.filename={self.scratch}",
                     f"driver=file,node-name=writes,filename={self.log}",
                     "driver=blklogwrites,node-name=root,file=scratch,log=writes"]
        else:
            disks = [f"driver=file,node-name=root,filename={self.disk}"]
        self.logging = log_writes
        begun = time.monotonic()
        self.qemu = subprocess.Popen(
            # The network has no way out: "restrict" leaves only the two ports.
            [*MACHINES[self.arch], "-smp", "2", "-m", "1024", "-display", "none", "-monitor", "none", "-no-reboot",
             "-serial", f"file:{self.console}",
             "-kernel", self.image / "vmlinuz", "-initrd", self.image / "initrd.gz",
             "-append", f"console={CONSOLES[self.arch]} loglevel=4 net.ifnames=0 systemd.show_status=0",
             *(word for disk in disks for word in ("-blockdev", disk)),
             "-device", "virtio-blk-pci,drive=root,discard=off,write-zeroes=off",
             "-netdev", f"user,id=lan,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,"
                        f"hostfwd=tcp:127.0.0.1:{self.http_port}-:8000",
             "-device", "virtio-net-pci,netdev=lan,romfile=", "-device", "virtio-rng-pci"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait("the board's SSH server answers", self._banner, within=300, pause=0.5)
        self.shell = subprocess.Popen(self._ssh("-M", "-N", "-o", "ConnectTimeout=60"), stdin=subprocess.DEVNULL,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait("a shell on the board", lambda: self.run("true", timeout=30).returncode == 0, within=120)
        return time.monotonic() - begun

    def _banner(self) -> bool:
        if self.qemu.poll() is not None:
            raise SystemExit(f"vm: QEMU ended by itself: {self.qemu.stderr.read().decode()}")
        with socket.create_connection(("127.0.0.1", self.ssh_port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"

    def cut_power(self, cache_survives: float, seed: int) -> str:
        """Kills QEMU, then gives the disk what a real one would have: each write up to the last flush that the board
        had asked for, and of the later ones,
        which it had only in its cache, each block with this probability."""
        self.qemu.kill()
        self._gone()
        return self._settle_disk(cache_survives, seed)

    def _settle_disk(self, cache_survives: float, seed: int) -> str:
        with open(self.log, "rb") as log, open(self.disk, "r+b") as disk:
            magic, _, acknowledged, sector = struct.unpack("<QQQI", log.read(28))
            if magic != LOG_MAGIC or sector != SECTOR:
                raise Failed("QEMU's log of writes is not what this script reads")
            entries, at = [], SECTOR
            while True:
                log.seek(at)
                header = log.read(32)
                if len(header) < 32:
                    break
                start, count, flags, _ = struct.unpack("<4Q", header)
                if count == 0 and not flags & FLUSH:
                    break
                entries.append((start, count, flags, at + SECTOR))
                at += SECTOR * (1 + (0 if flags & DISCARD else count))
            if len(entries) < acknowledged:
                raise Failed(f"QEMU's log of writes has {len(entries)} entries of {acknowledged}: this cut is no proof")
            flushed = max((n for n, entry in enumerate(entries) if entry[2] & FLUSH), default=-1)
            dice, late, lost = random.Random(seed), 0, 0
            for n, (start, count, flags, data) in enumerate(entries):
                if flags & DISCARD:
                    continue
                # Only single blocks are written whole or not at all.
                for block in range(0, count, BLOCK):
                    if n > flushed:
                        late += 1
                        if dice.random() >= cache_survives:
                            lost += 1
                            continue
                    log.seek(data + block * SECTOR)
                    disk.seek((start + block) * SECTOR)
                    disk.write(log.read(min(BLOCK, count - block) * SECTOR))
        self.scratch.unlink()
        return f"{len(entries)} writes and flushes, {lost} of {late} unflushed blocks lost"

    def power_off(self):
        """Shuts down in order."""
        if self.qemu is None:
            return
        with contextlib.suppress(Failed):
            self.run("systemctl poweroff", timeout=30)
        try:
            self.qemu.wait(180)
        except subprocess.TimeoutExpired:
            self.qemu.kill()
        self._gone()
        if self.logging:
            self._settle_disk(1, 0)

    def _gone(self):
        self.qemu.wait()
        self.qemu = None
        if self.shell:
            self.shell.kill()
            self.shell.wait()
        for left in Path(self.sockets).iterdir():
            left.unlink()

    def close(self):
        if self.qemu is not None:
            self.qemu.kill()
            self._gone()
        shutil.rmtree(self.sockets, ignore_errors=True)

    # Talking to it.

    def _ssh(self, *words) -> list:
        return ["ssh", "-q", "-i", self.image / "key", "-p", str(self.ssh_port), "-S", f"{self.sockets}/ssh",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
                *words, "root@127.0.0.1"]

    def run(self, command: str, timeout: float = 120, input: bytes = b"") -> subprocess.CompletedProcess:
        """Runs a line of shell as root; standard error comes with standard output."""
        try:
            return subprocess.run([*self._ssh("-o", "ControlMaster=no"), "exec 2>&1\n" + command], input=input,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=timeout)
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace")
            raise Failed(f"`{command}` did not end within {timeout:.0f} s, said: {said}") from None

    def sh(self, command: str, timeout: float = 120, input: bytes = b"") -> str:
        """As `run`, but failing is `Failed`; gives what was said."""
        ended = self.run(command, timeout, input)
        said = ended.stdout.decode(errors="replace").strip()
        if ended.returncode:
            raise Failed(f"`{command}` ended with {ended.returncode}: {said}")
        return said

    def put(self, file: Path, path: str):
        """Copies a file onto the board."""
        self.write(path, Path(file).read_bytes())

    def write(self, path: str, content: bytes | str):
        content = content.encode() if isinstance(content, str) else content
        self.sh(f"mkdir -p $(dirname {path}) && cat >{path}", timeout=300, input=content)

    def http(self, path: str, body: bytes | None = None, headers: dict | None = None, timeout: float = 30):
        """Asks the page from outside the board; gives status and text."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
