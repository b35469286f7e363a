"""The critical path of a cargo build: its unit graph (cargo's manual, "unit-graph"), and how long cargo says that each took."""

import json
import re
import shutil
import subprocess

# What other crates need nothing but the metadata of.
LIBRARIES = {"lib", "rlib"}


def timings(place):
    """Seconds of each unit of the build that has just been made with --timings: all of it, and until its metadata was there."""
    page = (place / "target" / "cargo-timings" / "cargo-timing.html").read_text()
    seconds = {}
    for unit in json.loads(re.search(r"const UNIT_DATA = (\[.*?\]);", page, re.S).group(1)):
        front = [section["end"] for name, section in unit.get("sections") or [] if name == "frontend"]
        whole = unit["duration"]
        key = (unit["name"], unit["version"], unit["target"].strip())
        # One crate with two sets of features: the longer one.
        seconds[key] = max(seconds.get(key, (0, 0)), (whole, front[0] if front else whole))
    return seconds


def one_by_one(place, env):
    """The timings of an unhindered build with one job, which leaves each compile one processor."""
    shutil.rmtree(place / "target", ignore_errors=True)
    words = ["cargo", "build", "--quiet", "--timings", "-j1"]
    subprocess.run(words, cwd=place, env=env, check=True, stdout=subprocess.DEVNULL)
    return timings(place)


def key(unit):
    """How the timings name a unit of the graph."""
    name, _, version = unit["pkg_id"].rpartition("#")[2].rpartition("@")
    if not name:
        name = re.split("[/#]", unit["pkg_id"])[-2]
    kind = unit["target"]["kind"][0]
    if kind == "custom-build":
        return name, version, "build-script (run)" if unit["mode"] == "run-custom-build" else "build-script"
    return name, version, f'{unit["target"]["name"]} "bin"' if kind == "bin" else ""


def length(place, env, seconds):
    """Seconds of the longest chain of units: libraries start when the metadata is there that they need, and what is linked
    when all the code is."""
    words = ["cargo", "build", "--quiet", "--unit-graph", "-Z", "unstable-options"]
    asked = subprocess.run(words, cwd=place, env={**env, "RUSTC_BOOTSTRAP": "1"}, check=True, stdout=subprocess.PIPE)
    units = json.loads(asked.stdout)["units"]
    below, ends, fronts = {}, {}, {}

    def visit(at):
        if at in ends:
            return
        unit, start, below[at] = units[at], 0.0, set()
        is_library = unit["target"]["kind"][0] in LIBRARIES
        for dependency in unit["dependencies"]:
            other = dependency["index"]
            visit(other)
            below[at] |= {other} | below[other]
            pipelined = is_library and units[other]["target"]["kind"][0] in LIBRARIES
            start = max(start, fronts[other] if pipelined else ends[other])
        if not is_library and unit["mode"] != "run-custom-build":
            start = max([start, *(ends[other] for other in below[at])])
        whole, front = seconds.get(key(unit), (0.0, 0.0))
        ends[at], fronts[at] = start + whole, start + front

    for at in range(len(units)):
        visit(at)
    return max(ends.values())
