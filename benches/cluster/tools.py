"""The distributors: how each is started on a cluster, and how a build goes through it, as a competent user would."""

import os
import shutil
import subprocess
from pathlib import Path

from .hosts import HOME, wait_until

CLEAN = ("DBUILD_", "DISTCC_", "ICECC_", "CCACHE_", "MAKEFLAGS", "MFLAGS", "LD_PRELOAD")


def environment(**more):
    env = {key: value for key, value in os.environ.items() if not key.startswith(CLEAN)}
    return {**env, "LC_ALL": "C", "HOME": f"{HOME}/home", "TMPDIR": f"{HOME}/tmp", **more}


class Plain:
    """No distribution."""

    name = "plain"
    word = ""
    wrapper = ()

    def env(self, cluster):
        return environment()

    def jobs(self, cluster):
        return 2

    def start(self, cluster):
        pass

    def warm_up_words(self, cluster):
        """What stands before the compilers of trivial units, so that they reach all helpers."""
        return [self.word]

    def extra(self, cluster):
        return {}


class Distcc(Plain):
    """distcc, preprocessing here, no compression: its default. The client compiles along where helpers are few."""

    name = "distcc"
    word = "distcc"
    needs = ("distcc", "distccd")

    def __init__(self, settings):
        self.slots = settings.slots

    def jobs(self, cluster):
        return len(cluster.helpers) * self.slots + 2

    def env(self, cluster):
        hosts = [f"{host.address}/{self.slots}" for host in cluster.helpers]
        local = ["localhost/1"] if len(hosts) <= 2 else []
        return environment(DISTCC_HOSTS=" ".join(["--localslots=1", "--localslots_cpp=4", *hosts, *local]),
                           DISTCC_DIR=f"{HOME}/distcc")

    def start(self, cluster):
        (cluster.client.home / "distcc").mkdir()
        for host in cluster.helpers:
            host.start("distccd", ["distccd", "--daemon", "--no-detach", "--listen", host.address, "--allow",
                                   "10.77.0.0/24", "--jobs", self.slots, "--log-level", "notice", "--log-stderr"],
                       environment())
        wait_until("distccd", lambda: all(host.listens(3632) for host in cluster.helpers))


# Namespaces do not divide the machine's counts of load: every host would look as busy as all together, and icecream's
# scheduler gives nothing to a busy host. So its hosts see counts that stand still.
READY_FOR_ICECC = """
mkdir -p /run/icecc /run/host/icecc
chown $1 /run/icecc /run/host/icecc
cat /proc/stat > /run/stat
echo 0.00 0.00 0.00 1/100 1 > /run/loadavg
mount --bind /run/stat /proc/stat
mount --bind /run/loadavg /proc/loadavg
"""


class Icecc(Plain):
    """icecream: a scheduler on the extra host, a daemon everywhere, the toolchain as the tarball that it makes."""

    name = "icecc"
    word = "icecc"
    needs = ("icecc", "iceccd", "icecc-scheduler", "icecc-create-env")

    def __init__(self, settings, place):
        self.slots, self.place = settings.slots, place
        self.tarball = None

    def pack(self):
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        command = ["icecc-create-env", "--gcc", shutil.which("gcc"), shutil.which("g++")]
        subprocess.run(command, cwd=self.place, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.tarball = next(self.place.glob("*.tar.*"))

    def jobs(self, cluster):
        return len(cluster.helpers) * self.slots + 2

    def env(self, cluster):
        return environment(ICECC_VERSION=str(self.tarball))

    def warm_up_words(self, cluster):
        return [f"env ICECC_PREFERRED_HOST={host.name} {self.word}" for host in cluster.helpers]

    def start(self, cluster):
        self.tarball or self.pack()
        user = "icecc" if subprocess.run(["id", "icecc"], capture_output=True).returncode == 0 else "nobody"
        aux = cluster.aux
        aux.start("scheduler", [tool("icecc-scheduler"), "-n", "lab", "-p", "8765", "-vvv"], environment())
        wait_until("icecc-scheduler", lambda: aux.listens(8765))
        for host in [*cluster.helpers, cluster.client]:
            host.run(["sh", "-ec", READY_FOR_ICECC, "sh", user], environment())
            mine = ["-m", "1", "--no-remote"] if host is cluster.client else ["-m", self.slots]
            host.start("iceccd", [tool("iceccd"), "-n", "lab", "-s", f"{aux.address}:8765", *mine, "-N", host.name,
                                  "-b", f"{HOME}/icecc", "-u", user], environment())
        wait_until("iceccd", lambda: all(f"login {host.name}" in aux.log("scheduler")
                                         for host in [*cluster.helpers, cluster.client]))


class Dbuild(Plain):
    """dbuild: a coordinator on the extra host, helpers with nothing but the binary."""

    name = "dbuild"

    def __init__(self, settings, binary):
        self.slots, self.local, self.ahead = settings.slots, settings.local_slots, settings.ahead
        self.binary = binary
        self.wrapper = (f"{HOME}/dbuild",)

    def jobs(self, cluster):
        return len(cluster.helpers) * self.slots + self.ahead

    def env(self, cluster):
        local = {} if self.local is None else {"DBUILD_LOCAL_SLOTS": str(self.local)}
        return environment(DBUILD_COORDINATOR=self.url(cluster), DBUILD_DATA_DIR=f"{HOME}/data", **local)

    @staticmethod
    def url(cluster):
        return f"http://{cluster.aux.address}:8980"

    def start(self, cluster):
        for host in cluster.hosts.values():
            shutil.copy(self.binary, host.home / "dbuild")
        aux = cluster.aux
        aux.start("coordinator", [*self.wrapper, "coordinator", "--listen", f"{aux.address}:8980", "--data",
                                  f"{HOME}/coordinator"], environment())
        wait_until("the coordinator", lambda: aux.listens(8980))
        for host in cluster.helpers:
            host.start("helper", [*self.wrapper, "helper", "--coordinator", self.url(cluster), "--slots", self.slots,
                                  "--data", f"{HOME}/helper"], environment())
        wanted = len(cluster.helpers)
        wait_until("the helpers", lambda: self.online(cluster) == wanted)

    def online(self, cluster):
        code, text = cluster.aux.run([*self.wrapper, "helpers", "--json"], self.env(cluster), check=False)
        return text.count('"online":true') if code == 0 else 0

    def extra(self, cluster):
        """Where tasks ran, and the initiator's memory."""
        _, text = cluster.client.run([*self.wrapper, "stats", "--json", "--zero"], self.env(cluster), check=False)
        return {"stats": text.strip(), "initiator_peak": initiator_peak(cluster.client.group)}

    def forget(self, cluster):
        """The client as it is on the first day; the pool keeps what it knows."""
        cluster.client.run([*self.wrapper, "stop"], self.env(cluster), check=False)
        shutil.rmtree(cluster.client.home / "data", ignore_errors=True)


def initiator_peak(group):
    for pid in group.pids():
        try:
            if b"initiator" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                status = Path(f"/proc/{pid}/status").read_text()
                return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            continue
    return 0


def tool(name):
    """Daemons are often outside of an ordinary PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")
