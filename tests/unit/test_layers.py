"""Imports point one way, and what only one module may do, no other does. Read from the source, nothing is run."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ossensor

ROOT = Path(ossensor.__file__).parent

# From the bottom up. A module may import those of its own layer, as long as there is no circle, and of all below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "ratelimit", "backoff", "durable", "steady", "mapping", "pcapng", "ere", "transport.protocol"),
    (
        *("accounting", "filters", "children", "interfaces", "values", "variables", "settings", "configfile"),
        *("logs", "childlog", "spoolfile", "control", "region", "slots", "netlink", "complaints", "outages", "budget"),
        *("recipe", "tally"),
        *("assembler", "confine.syscalls", "confine.policy"),
        *(
            "transport.signing",
            "transport.window",
            "transport.endpoint",
            "transport.direct",
            "transport.hostport",
            "transport.compression",
            "transport.registration",
            "transport.retry",
            "transport.introduction",
            "transport.stamp",
            "transport.inquiry",
            "transport.orders",
        ),
        "antigena.*",
        *("status.upload", "status.rates", "status.document", "status.judgement", "status.text", "status.antigena"),
        *("status.server", "status.asking", "systemd.notify", "systemd.fdstore"),
    ),
    ("capture.*", "confine.*", "transport.connection", "transport.taskmetadata"),
    ("transport.client", "operator.ends", "operator.client", "operator.access", "operator.board", "legacy"),
    ("workers.*",),
    ("spawn", "port"),
    ("gate", "plans"),
    ("uplink", "enforcement"),
    ("roster",),
    ("status.observe",),
    ("supervisor",),
    ("start",),
    ("ecs.document",),
    ("ecs.fargate",),
    ("ecs.sidecar", "ecs.objections"),
    (
        "cli",
        "__main__",
        "commands_look",
        "ecs.command",
        "operator.command",
        "operator.top",
        "status.command",
        "systemd.ini",
        "systemd.install",
    ),
)
# Of the two lowest layers, what speaks to the kernel, to a file or to a clock. The rest is the pure core, and the
# sidecar's documents with it: what `make coverage` reports on (pyproject.toml).
BELOW_BUT_IMPURE = {
    *("", "configfile", "durable", "mapping", "netlink", "steady"),
    *("childlog", "complaints", "control", "logs", "antigena.token"),
    *("status.asking", "status.server", "systemd.fdstore", "systemd.notify"),
}
PURE_ABOVE = {"ecs.document", "ecs.fargate", "ecs.objections", "ecs.sidecar"}
# A module that imports one of these waits, looks at a clock or tells somebody. Sockets and os are not here: of these,
# the core has constants, and slots their own memory and pipes.
NOT_PURE = {
    *("asyncio", "logging", "multiprocessing", "queue", "select", "selectors", "sqlite3", "subprocess", "tempfile"),
    *("threading", "time"),
}

# A package's own __init__ holds its docstring; whatever stands in one must be fit for every importer.
BARE_PACKAGES = {
    *("transport", "capture", "workers", "vsensor", "vsensor.streams", "vsensor.jetstream"),
    *("antigena", "confine", "ecs", "operator", "status", "systemd"),
}

VSENSOR_MAY_IMPORT = {
    *(
        "",
        "errors",
        "logs",
        "backoff",
        "ratelimit",
        "durable",
        "steady",
        "pcapng",
        "settings",
        "transport.signing",
        "transport.protocol",
        "transport.introduction",
        "transport.orders",
        "antigena.actions",
        "transport.hostport",
        "antigena.token",
        "antigena.words",
    ),
    *BARE_PACKAGES - {"workers", "capture", "confine", "ecs", "status", "systemd"},
}
# Where the command line enters the vSensor.
VSENSOR_DOORS = {"vsensor.command", "vsensor.audit", "vsensor.extract", "vsensor.jetstream.command"}
VSENSOR_MAY_IMPORT_LAZILY = {"settings"}


def layer(module: str) -> int | None:
    """The module's height; None for one that the table does not know."""
    for height, patterns in enumerate(LAYERS):
        if any(fnmatchcase(module, pattern) for pattern in patterns):
            return height
    return None


class Source:
    """One module, parsed."""

    def __init__(self, module: str, text: str, *, is_package: bool = False) -> None:
        self.module = module
        self.tree = ast.parse(text)
        parts = ["ossensor", *module.split(".")] if module else ["ossensor"]
        self._package = parts if is_package else parts[:-1]

    def imports(self, known: set[str], *, top_level_only: bool = False) -> Iterator[tuple[str, str]]:
        """(absolute module, name) of every import, wherever it stands; the name is "" for a plain `import`."""
        lazy = set()
        if top_level_only:
            functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
            lazy = {id(n) for f in ast.walk(self.tree) if isinstance(f, functions) for n in ast.walk(f)}
        for node in ast.walk(self.tree):
            if id(node) in lazy:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, ""
            elif isinstance(node, ast.ImportFrom):
                base = self._package[: len(self._package) - node.level + 1] if node.level else []
                path = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:
                    # `from . import pcapng` names a module; `from . import __version__` something in one.
                    if inside(f"{path}.{alias.name}") in known:
                        yield f"{path}.{alias.name}", ""
                    else:
                        yield path, alias.name

    def ours(self, known: set[str], *, top_level_only: bool = False) -> set[str]:
        """Modules of this program that it imports, named without the program's own name."""
        found = {inside(path) for path, _ in self.imports(known, top_level_only=top_level_only)}
        return {module for module in found if module is not None}

    def attributes(self) -> set[str]:
        """Dotted names that it uses, as `os.environ`, with aliases resolved; and `.Process` of anything."""
        aliases: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                aliases |= {(a.asname or a.name): a.name for a in node.names}
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute):
                found.add(f".{node.attr}")
                if isinstance(node.value, ast.Name):
                    found.add(f"{aliases.get(node.value.id, node.value.id)}.{node.attr}")
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        return found


def inside(path: str) -> str | None:
    """`errors` for `ossensor.errors`, "" for `ossensor`; None for what is not ours."""
    if path == "ossensor":
        return ""
    return path.removeprefix("ossensor.") if path.startswith("ossensor.") else None


def read_all(root: Path) -> dict[str, Source]:
    sources = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        sources[module] = Source(module, file.read_text(), is_package=is_package)
    return sources


SOURCES = read_all(ROOT)
SENSOR = {m: s for m, s in SOURCES.items() if not f"{m}.".startswith("vsensor.") and m not in BARE_PACKAGES}
VSENSOR = {m: s for m, s in SOURCES.items() if f"{m}.".startswith("vsensor.")}
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
CORE = {
    file.removeprefix("ossensor/").removesuffix(".py").replace("/", ".")
    for file in PROJECT["tool"]["coverage"]["report"]["include"]
}


def faults(sources: dict[str, Source]) -> list[str]:
    """Every import of the sensor's modules that runs against the order, and every module that has no layer."""
    found = []
    known = set(sources)
    for module, source in sources.items():
        height = layer(module)
        if height is None:
            found.append(f"{module}: in no layer")
            continue
        for target in sorted(source.ours(known) - BARE_PACKAGES):
            if f"{target}.".startswith("vsensor."):
                if module != "cli" or target not in VSENSOR_DOORS:
                    found.append(f"{module} -> {target}: the vSensor is nobody's to import")
                continue
            below = layer(target)
            if below is None:
                found.append(f"{module} -> {target}: in no layer")
            elif below > height:
                found.append(f"{module} -> {target}: against the order")
    return found


def circle(sources: dict[str, Source]) -> list[str]:
    """Modules that import each other when they are loaded; empty when none do."""
    known = set(sources)
    graph = {m: s.ours(known, top_level_only=True) & known - {m} for m, s in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        return list(e.args[1])
    return []


def users(*names: str, sources: dict[str, Source] = SOURCES) -> set[str]:
    """Modules that use one of the dotted names."""
    return {module for module, source in sources.items() if source.attributes() & set(names)}


def test_imports_run_from_the_upper_layer_to_the_lower_and_every_module_has_its_layer() -> None:
    assert faults(SENSOR) == []


def test_the_pure_core_is_the_two_lowest_layers_without_what_is_known_to_be_impure() -> None:
    lowest = {m for m in SENSOR if layer(m) in {0, 1}}

    assert lowest >= BELOW_BUT_IMPURE
    assert CORE - set(VSENSOR) == lowest - BELOW_BUT_IMPURE | PURE_ABOVE
    assert set(SOURCES) >= CORE


def test_the_pure_core_neither_waits_nor_looks_at_a_clock_nor_tells_anybody() -> None:
    imports = {(m, path.partition(".")[0]) for m in CORE for path, _ in SOURCES[m].imports(set(SOURCES))}

    assert {(m, path) for m, path in imports if path in NOT_PURE} == set()


def test_no_modules_load_each_other_in_a_circle() -> None:
    assert circle(SOURCES) == []


def test_packages_hold_no_code_but_the_version() -> None:
    statements = {m: [type(n).__name__ for n in SOURCES[m].tree.body] for m in (*BARE_PACKAGES, "")}

    assert statements == {m: ["Expr"] for m in BARE_PACKAGES} | {"": ["Expr", "Assign"]}


def test_workers_know_nothing_of_who_starts_them() -> None:
    forbidden = {"supervisor", "spawn", "port", "uplink", "start", "cli"}
    workers = {m: s.ours(set(SOURCES)) & forbidden for m, s in SENSOR.items() if m.startswith("workers.")}

    assert workers == {m: set() for m in workers}
    assert len(workers) >= 5


def test_the_vsensor_shares_with_the_sensor_only_what_is_agreed() -> None:
    known = set(SOURCES)
    strangers = {
        (module, target)
        for module, source in VSENSOR.items()
        for target in source.ours(known)
        if target not in VSENSOR and target not in VSENSOR_MAY_IMPORT
    }
    early = {
        (module, target)
        for module, source in VSENSOR.items()
        for target in source.ours(known, top_level_only=True) & VSENSOR_MAY_IMPORT_LAZILY
    }

    assert (strangers, early) == (set(), set())


def test_only_the_command_line_reads_the_environment() -> None:
    assert users("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv") == {"cli"}


def test_only_three_modules_make_processes() -> None:
    forks = ("os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "os.system", "os.popen", ".Process")
    others = (
        ".create_subprocess_exec",
        ".create_subprocess_shell",
        "subprocess",
        "multiprocessing.Process",
        "multiprocessing.Pool",
        ".Pool",
        ".ProcessPoolExecutor",
    )

    assert users(*forks, *others) == {"spawn", "vsensor.keeper", "vsensor.housekeeping"}


def test_few_modules_speak_http_as_a_client() -> None:
    http = users("requests", "urllib3", "http.client", "urllib.request", "httpx", "aiohttp")
    assert http == {"transport.client", "transport.connection", "transport.taskmetadata", "operator.client"}


def test_pickles_are_read_nowhere() -> None:
    assert users("pickle", "marshal", "shelve", "multiprocessing.shared_memory") == set()


# -- the checker itself -----------------------------------------------------------------------------------------------


def made_up(**texts: str) -> dict[str, Source]:
    return {m.replace("__", "."): Source(m.replace("__", "."), text) for m, text in texts.items()}


@pytest.mark.parametrize(
    "importer,text,target",
    [
        pytest.param("slots", "from .supervisor import Supervisor", "supervisor", id="relative"),
        pytest.param("slots", "from . import supervisor", "supervisor", id="module by name"),
        pytest.param("slots", "import ossensor.supervisor as s", "supervisor", id="absolute"),
        pytest.param("slots", "from ossensor import supervisor", "supervisor", id="absolute, by name"),
        pytest.param("slots", "def f():\n    from .supervisor import x", "supervisor", id="lazy"),
        pytest.param("transport__window", "from ..supervisor import x", "supervisor", id="two levels up"),
        pytest.param("workers__child", "from ossensor.spawn import Forge", "spawn", id="worker to spawn"),
        pytest.param("errors", "from .slots import Region", "slots", id="leaf to core"),
        pytest.param("transport__signing", "from .client import Client", "transport.client", id="core to shell"),
    ],
)
def test_a_back_edge_is_found_however_it_is_written(importer: str, text: str, target: str) -> None:
    sources = made_up(**{importer: text, target.replace(".", "__"): ""})

    assert faults(sources) == [f"{importer.replace('__', '.')} -> {target}: against the order"]


def test_a_module_without_a_layer_is_found_as_importer_and_as_target() -> None:
    assert faults(made_up(novelty="", slots="from .novelty import x")) == [
        "novelty: in no layer",
        "slots -> novelty: in no layer",
    ]


def test_a_stranger_who_imports_the_vsensor_is_found_and_the_command_line_is_not() -> None:
    text = "def f():\n    from .vsensor.command import run"

    assert faults(made_up(cli=text, start=text)) == ["start -> vsensor.command: the vSensor is nobody's to import"]


def test_a_forward_edge_within_or_between_layers_is_no_fault() -> None:
    assert faults(made_up(slots="from .accounting import Reason\nfrom .errors import Exit", accounting="")) == []


def test_a_circle_is_found_within_a_layer_and_a_lazy_import_is_none() -> None:
    circular = made_up(slots="from . import logs", logs="from .slots import Region")
    lazy = made_up(slots="from . import logs", logs="def f():\n    from .slots import Region")

    assert set(circle(circular)) == {"slots", "logs"}
    assert circle(lazy) == []


@pytest.mark.parametrize(
    "text,name",
    [
        ("import os\nx = os.environ", "os.environ"),
        ("import os as o\nx = o.environ['A']", "os.environ"),
        ("from os import environ", "os.environ"),
        ("from os import getenv as g", "os.getenv"),
        ("import multiprocessing as m\nm.get_context('fork').Process()", ".Process"),
        ("import subprocess", "subprocess"),
        ("def f():\n    import requests", "requests"),
    ],
)
def test_a_use_is_found_however_it_is_written(text: str, name: str) -> None:
    assert users(name, sources=made_up(a=text)) == {"a"}
