"""Hosts on one machine: each has its own network, processes, mounts and name, a quota of processor and a link.

Everything that runs on a host is in a process namespace of its own, whose first process dies with this program. So
nothing outlives the lab, however it ends, and nothing else on the machine is ever signalled. The hosts' links meet on
a bridge in a namespace without any other interface: nothing can leave the lab. Helpers see an empty directory where
the project is.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

NETWORK = "10.77.0"
HOME = "/run/host"

# The first process of a host: sets up its mounts, says so, and buries orphans for ever after.
FIRST = """
hostname "$1"
ip link set lo up
mount -t tmpfs lab-run /run
mkdir -p /run/host /run/lock
if [ -n "$2" ]; then mount --bind "$2" /run/host; fi
if [ -n "$3" ]; then mount -t tmpfs lab-hidden "$3"; fi
echo ready
while :; do sleep 1000 & wait; done
"""
JOIN = 'n=$1; shift; while [ $n -gt 0 ]; do echo $$ > "$1"; shift; n=$((n - 1)); done; exec "$@"'
INSIDE = 'cd "$0"; exec "$@"'


def run(*command):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(map(str, command))}\n{done.stdout.decode(errors='replace')}")


class Namespaces:
    """A process that holds namespaces, and all that is in them."""

    def __init__(self, name, home="", hide=""):
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--pid", "--fork",
                   "--kill-child", "--mount-proc", "sh", "-ec", FIRST, "sh", name, str(home), str(hide)]
        self.outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                      start_new_session=True)
        if self.outer.stdout.readline() != b"ready\n":
            self.close()
            raise SystemExit(f"the namespaces of {name} cannot be made; that takes root")
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()
        self.pid = int(children[0])

    def enter(self, *kinds):
        return ["nsenter", "-t", str(self.pid), *(f"--{kind}" for kind in kinds)]

    def close(self):
        self.outer.kill()
        self.outer.wait()
        self.outer.stdout.close()


class Host:
    def __init__(self, name, address, group, cores, home, hide):
        self.name, self.address, self.group, self.home = name, address, group, home
        self.logs = home / "logs"
        for place in (self.logs, home / "tmp", home / "home"):
            place.mkdir(parents=True)
        (home / "tmp").chmod(0o1777)
        home.chmod(0o755)
        group.quota(cores)
        self.spaces = Namespaces(name, home, hide)
        self.started = []

    def command(self, words, cwd):
        joins = self.group.joins()
        return ["sh", "-ec", JOIN, "sh", str(len(joins)), *joins, *self.spaces.enter("net", "mount", "uts", "pid"),
                "--", "sh", "-c", INSIDE, str(cwd), *map(str, words)]

    def start(self, name, words, env):
        """Starts a program that stays; what it prints is in the host's logs."""
        log = open(self.logs / name, "wb")
        self.started.append(subprocess.Popen(self.command(words, HOME), env=env, stdin=subprocess.DEVNULL, stdout=log,
                                             stderr=subprocess.STDOUT, start_new_session=True))
        log.close()

    def run(self, words, env, cwd=HOME, check=True):
        """Runs a program to its end; gives code and output."""
        done = subprocess.run(self.command(words, cwd), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True)
        text = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise SystemExit(f"failed on {self.name}: {' '.join(map(str, words))}\n{text[-4000:]}")
        return done.returncode, text

    def log(self, name):
        return (self.logs / name).read_text(errors="replace")

    def wire(self):
        """Bytes received and sent on its link."""
        for line in Path(f"/proc/{self.spaces.pid}/net/dev").read_text().splitlines():
            if line.strip().startswith("eth0:"):
                fields = line.split(":")[1].split()
                return int(fields[0]), int(fields[8])
        return 0, 0

    def listens(self, port):
        wanted = f":{port:04X}"
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.spaces.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(wanted) and fields[3] == "0A":
                    return True
        return False

    def close(self):
        self.spaces.close()
        for process in self.started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.group.close()


class Cluster:
    """A client, helpers, and one more host for schedulers and coordinators, all new. A context manager."""

    def __init__(self, tree, helpers, settings, home, hide):
        self.tree, self.settings, self.home, self.hide = tree, settings, home, hide
        self.names = ["client", *(f"helper{n}" for n in range(1, helpers + 1)), "aux"]
        self.hosts, self.switch = {}, None

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def up(self):
        shutil.rmtree(self.home, ignore_errors=True)
        self.switch = Namespaces("switch")
        switch = self.switch.enter("net")
        run(*switch, "ip", "link", "add", "br0", "type", "bridge")
        run(*switch, "ip", "link", "set", "br0", "up")
        for number, name in enumerate(self.names):
            home = self.home / name
            home.mkdir(parents=True)
            group = self.tree.group(name, self.settings.period)
            try:
                hide = "" if name == "client" else self.hide
                host = Host(name, f"{NETWORK}.{10 + number}", group, self.settings.cpu, home, hide)
            except BaseException:
                group.close()
                raise
            self.hosts[name] = host
            self.plug(host, f"port{number}")

    def plug(self, host, port):
        """Gives the host its link; the rate holds in both directions."""
        switch, inside = self.switch.enter("net"), host.spaces.enter("net")
        run(*switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.spaces.pid)
        run(*switch, "ip", "link", "set", port, "master", "br0", "up")
        run(*inside, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        run(*inside, "ip", "link", "set", "eth0", "up")
        if self.settings.rate:
            shape = ["root", "tbf", "rate", self.settings.rate, "burst", "64kb", "latency", "100ms"]
            run(*inside, "tc", "qdisc", "add", "dev", "eth0", *shape)
            run(*switch, "tc", "qdisc", "add", "dev", port, *shape)

    @property
    def client(self):
        return self.hosts["client"]

    @property
    def aux(self):
        return self.hosts["aux"]

    @property
    def helpers(self):
        return [host for name, host in self.hosts.items() if name.startswith("helper")]

    def close(self):
        for host in self.hosts.values():
            host.close()
        if self.switch:
            self.switch.close()
        self.hosts, self.switch = {}, None


def wait_until(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.1)
