"""docs/performance.md and its plots, from the results of one run. What is slower than a peer comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import capture
import collector
import delay
import forward
import plot
import scale
from results import Spread, markdown, spread

_ASKED_MB_PER_CPU_S: Final = 400

Results = dict[str, Any]


def slower(results: Results) -> list[tuple[str, str, float]]:
    """What costs more than a peer, or than the floor, or takes longer: ours, theirs and the ratio, the worst first."""
    found: list[tuple[str, str, float]] = []
    for profile, of in results.get("capture", {}).items():
        found.append(
            (f"capturing, {profile} bytes: ring", "tcpdump", of["cpu"]["ring"]["ns"] / of["cpu"]["tcpdump"]["ns"])
        )
    for traffic, of in results.get("forward", {}).items():
        found += [
            (f"forwarding, {traffic}: {ours}", theirs, of["cpu"][ours]["ns"] / of["cpu"][theirs]["ns"])
            for ours, theirs in forward.RATIOS
        ]
    if runs := results.get("ingest"):
        ratio = Spread.of(1e3 / run["mb_per_cpu_s"] / sum(run["floor"].values()) for run in runs).median
        found.append(("receiving, 1 MiB batches: the vSensor", "the physical floor", ratio))
    for load, by_program in results.get("delay", {}).items():
        ours, theirs = (Spread.of(run["median_ms"] for run in of).median for of in by_program.values())
        found.append((f"delay, {load}: ossensor", list(by_program)[1], ours / theirs))
    return sorted((one for one in found if one[2] > 1), key=lambda one: -one[2])


def _cpu_bars(of: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    return {name: (run["ns"], run["least_ns"], run["most_ns"]) for name, run in of.items()}


def plots(results: Results) -> dict[str, str]:
    """The SVGs by file name."""
    made: dict[str, str] = {}
    if by_profile := results.get("capture"):
        curves = {
            name: [(of["mean"], of["cpu"][name]["ns"]) for of in by_profile.values() if of["mean"] < 10_000]
            for name in next(iter(by_profile.values()))["cpu"]
        }
        made["capture.svg"] = plot.lines("Capturing: processor time per packet, ns", "bytes of a frame (mean)", curves)
    for traffic, of in results.get("forward", {}).items():
        name = f"forward-{traffic.split(',')[0]}.svg"
        made[name] = plot.bars(f"Forwarding ({traffic} bytes): processor time per packet, ns", _cpu_bars(of["cpu"]))
    if runs := results.get("ingest"):
        values = {name: Spread.of(run["floor"][name] for run in runs) for name in runs[0]["floor"]}
        values["the vSensor"] = Spread.of(1e3 / run["mb_per_cpu_s"] for run in runs)
        made["ingest.svg"] = plot.bars("Receiving: processor time, seconds per GB", values)
    for load, by_program in results.get("delay", {}).items():
        values = {
            f"{name}, {figure[:-3]}": Spread.of(run[figure] for run in of)
            for name, of in by_program.items()
            for figure in ("median_ms", "p99_ms")
        }
        made[f"delay-{load.split(',')[0]}.svg"] = plot.bars(f"Delay ({load}), ms", values)
    if by_number := results.get("interfaces"):
        curves = {"percent of a core": [(n, spread(of, "percent_of_a_core").median) for n, of in by_number.items()]}
        made["interfaces.svg"] = plot.lines("Idle interfaces: percent of a core", "interfaces", curves)
    if by_number := results.get("crowds"):
        curves = {"memory, MiB": [(number, run["memory_mib"]) for number, run in by_number.items()]}
        made["sensors.svg"] = plot.lines("Sensors at one vSensor: memory, MiB", "sensors", curves)
    return made


def _section(title: str, text: str, table: str, *svgs: str) -> str:
    pictures = "\n".join(f"![{title}](plots/{svg})" for svg in svgs)
    return f"## {title}\n\n{text}\n\n{table}\n\n{pictures}\n"


def page(results: Results) -> str:
    """The page in Markdown."""
    about = results["about"]
    parts = [
        "# Performance\n\nWritten by `make bench`, or by `make bench-quick` from fewer and shorter rounds; do not edit."
        " Programs take turns under the same traffic; figures are medians with the least and the most; ratios are of"
        " this run. Processor times on a machine that others use are too high, for every program, so trust ratios.\n\n"
        + markdown(("this run", ""), about.items()),
    ]
    if worse := slower(results):
        rows = [(ours, theirs, f"{ratio:.2f}") for ours, theirs, ratio in worse]
        parts.append("## What is slower than a peer\n\n" + markdown(("ours", "theirs", "ratio"), rows) + "\n")
    made = plots(results)
    if of := results.get("capture"):
        text = "Of the process that captures. The sensor's includes pcapng in shared memory; peers write to /dev/null."
        parts.append(_section("Capturing", text, capture.table(of), "capture.svg"))
    if of := results.get("forward"):
        text = "Of all processes at the sender's end. The sensor signs and is acknowledged; no peer does."
        svgs = [name for name in made if name.startswith("forward-")]
        parts.append(_section("Forwarding", text, forward.table(of) + "\n\n" + forward.ratios(of), *svgs))
    if of := results.get("ingest"):
        text = (
            f"The vSensor under two sensors with batches of 1 MiB. Asked for: {_ASKED_MB_PER_CPU_S} MB per CPU second."
        )
        parts.append(_section("Receiving", text, collector.ingest_table(of), "ingest.svg"))
    if of := results.get("delay"):
        svgs = [name for name in made if name.startswith("delay-")]
        text = "From the kernel's timestamp to stored, flushed and committed; of the peer, to read at the other end."
        parts.append(_section("Delay", text, delay.table(of), *svgs))
    if of := results.get("interfaces"):
        text = "While nothing comes in."
        parts.append(_section("Interfaces", text, scale.table(of), "interfaces.svg"))
    if of := results.get("crowds"):
        text = "Registered and sending at once: 64 KiB every five seconds or so on each of five connections."
        parts.append(_section("Sensors", text, collector.crowd_table(of), "sensors.svg"))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def write(results: Results, docs: Path) -> None:
    """The page and its plots; plots of an earlier run that this one does not have are removed."""
    folder = docs / "plots"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, svg in plots(results).items():
        (folder / name).write_text(svg)
    (docs / "performance.md").write_text(page(results))
