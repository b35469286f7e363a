#!/usr/bin/env python3
"""How busy helpers were in a build, and with what, from the trace that `dbuild --trace FILE` wrote.

    benches/utilisation.py FILE [--slots N]

For each helper: the share of the time between the start of the build's first action and the end of its last one in which
it had an action (with several slots: of all slots' time). `--slots` is how many slots a helper has; without it, as many as were ever
busy at a time. Then what of that time the actions themselves ran, and what was fetching and laying out before, and storing outputs after.
"""

import argparse
import json


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--slots", type=int, default=0)
    options = parser.parse_args()
    with open(options.file) as file:
        events = json.load(file)
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    actions = [event for event in events if event.get("cat") == "action"]
    if not actions:
        parser.error("no action of this build ran on a helper")
    first = min(action["ts"] for action in actions)
    last = max(action["ts"] + action["dur"] for action in actions)
    print(f"{len(actions)} actions in {(last - first) / 1e6:.2f} s")
    total = slots_of_all = 0
    for pid in sorted({action["pid"] for action in actions}):
        own = [action for action in actions if action["pid"] == pid]
        slots = options.slots or 1 + max(action["tid"] for action in own)
        busy = sum(action["dur"] for action in own)
        total, slots_of_all = total + busy, slots_of_all + slots
        print(f"{names[pid]:20} {len(own):5} actions, {slots} slots, busy {busy / slots / (last - first):6.1%}")
    print(f"{'all':20} {len(actions):5} actions, {slots_of_all} slots, busy {total / slots_of_all / (last - first):6.1%}")
    before, run = phases(actions, [event for event in events if event.get("cat") == "run"])
    print(f"of the busy time: before the run {before / total:.1%}, run {run / total:.1%}, after {1 - (before + run) / total:.1%}")


def phases(actions, runs):
    """Microseconds before the runs of all actions, and in them."""
    before = inside = 0
    for action in actions:
        end = action["ts"] + action["dur"]
        for run in runs:
            if (run["pid"], run["tid"]) == (action["pid"], action["tid"]) and action["ts"] <= run["ts"] <= end:
                before += run["ts"] - action["ts"]
                inside += run["dur"]
    return before, inside


main()
