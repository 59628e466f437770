"""Two processes that do the same work in alternation, a round per line, so that a noisy machine is noisy for both."""

import json
import statistics
import subprocess
import sys


class Side:
    """A process that does a round per line."""

    def __init__(self, name, command):
        self.name = name
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self.answer()
        self.rounds = []

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def round(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        result = self.answer()
        self.rounds.append(result)
        return result["images"] / result["seconds"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()

    def rate(self):
        return statistics.median(round["images"] / round["seconds"] for round in self.rounds)


def alternate(ours, theirs, rounds):
    """Rounds of both; the ratios of their rates. Prints each as it comes."""
    ratios = []
    for number in range(1, rounds + 1):
        ratios.append(ours.round() / theirs.round())
        last = [side.rounds[-1]["images"] / side.rounds[-1]["seconds"] for side in (ours, theirs)]
        print(f"round {number}: {ours.name} {last[0]:.3f} images/s, {theirs.name} {last[1]:.3f}, ratio {ratios[-1]:.2f}", flush=True)
    for side in (ours, theirs):
        side.end()
    return ratios
