"""A host's share of the processor and its accounts, as control groups of version 1 or 2, whichever the machine has."""

import os
import time
from pathlib import Path

PREFIX = "dbuild-lab-"
NEEDED = ("cpu", "cpuacct", "memory")


def mounts():
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        if kind in ("cgroup", "cgroup2"):
            yield Path(place), kind, options.split(",")


def roots():
    """Where the controllers are: by name for version 1, under "unified" for version 2."""
    found = {}
    for place, kind, options in mounts():
        if kind == "cgroup":
            found.update({name: place for name in NEEDED if name in options})
        elif {"cpu", "memory"} <= set((place / "cgroup.controllers").read_text().split()):
            return {"unified": place}
    if set(found) != set(NEEDED):
        raise SystemExit("no control groups for processor and memory (version 1 or 2) are mounted here")
    return found


class Tree:
    """The lab's own part of every hierarchy. Its weight shields it from short foreign load, as far as that goes."""

    def __init__(self, weight=4):
        self.roots = roots()
        self.unified = "unified" in self.roots
        self.name = f"{PREFIX}{os.getpid()}"
        sweep(self.roots.values())
        for place in set(self.roots.values()):
            if self.unified:
                self.delegate(place)
            (place / self.name).mkdir()
        if self.unified:
            self.delegate(self.roots["unified"] / self.name)
            (self.roots["unified"] / self.name / "cpu.weight").write_text(str(100 * weight))
        else:
            (self.roots["cpu"] / self.name / "cpu.shares").write_text(str(1024 * weight))

    @staticmethod
    def delegate(place):
        (place / "cgroup.subtree_control").write_text("+cpu +memory")

    def group(self, host, period):
        return Group({kind: place / self.name / host for kind, place in self.roots.items()}, period)

    def close(self):
        for place in set(self.roots.values()):
            remove(place / self.name)


class Group:
    """One host's groups."""

    def __init__(self, places, period):
        self.places, self.period = places, period
        self.unified = "unified" in places
        for place in set(places.values()):
            place.mkdir()

    def joins(self):
        """Files into which a process writes its number to become a member."""
        return sorted({str(place / "cgroup.procs") for place in self.places.values()})

    def quota(self, cores):
        """How much of a processor its members get together."""
        time_ = max(1000, round(cores * self.period))
        if self.unified:
            (self.places["unified"] / "cpu.max").write_text(f"{time_} {self.period}")
        else:
            (self.places["cpu"] / "cpu.cfs_period_us").write_text(str(self.period))
            (self.places["cpu"] / "cpu.cfs_quota_us").write_text(str(time_))

    def cpu(self):
        """Seconds burnt by all processes that ever were members."""
        if self.unified:
            return self.keyed("unified", "cpu.stat")["usage_usec"] / 1e6
        return int((self.places["cpuacct"] / "cpuacct.usage").read_text()) / 1e9

    def memory(self):
        """Bytes that members have now: their own pages, not the files that are cached for them."""
        if self.unified:
            return self.keyed("unified", "memory.stat")["anon"]
        return self.keyed("memory", "memory.stat")["rss"]

    def keyed(self, kind, name):
        lines = (self.places[kind] / name).read_text().splitlines()
        return {key: int(value) for key, value in (line.split() for line in lines)}

    def pids(self):
        found = set()
        for place in set(self.places.values()):
            found.update(int(pid) for pid in (place / "cgroup.procs").read_text().split())
        return found

    def close(self, seconds=20):
        """Waits until its members are gone, and removes it."""
        deadline = time.monotonic() + seconds
        while self.pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        for place in set(self.places.values()):
            remove(place)


def remove(place, seconds=5):
    """Removes a group; the kernel takes a moment for the last member of one."""
    deadline = time.monotonic() + seconds
    while place.exists():
        try:
            place.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def sweep(places):
    """Removes empty groups of labs that were killed."""
    for place in set(places):
        for old in place.glob(PREFIX + "*"):
            if Path("/proc", old.name.removeprefix(PREFIX)).exists():
                continue
            for group in [*(path for path in old.iterdir() if path.is_dir()), old]:
                remove(group)
