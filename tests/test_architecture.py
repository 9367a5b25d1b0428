"""The house rules: floors, no circles, nothing dangerous, small files, docstrings."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "experiments": 8,
    "configs": 8,
    "research.reports": 6,
    "research.compression": 6,
    "research.sweeps": 6,
    "research.ledger": 6,
    "research.serving": 7,
    "research.runs": 5,
    "research.training": 4,
    "research.tasks": 3,
    "research.metrics": 1,
    "research.analysis": 3,
    "research.weights": 3,
    "research.models": 2,
    "research.decoding": 2,
    "research.data": 2,
    "research.layers": 1,
    "research.parallel": 1,
    "research.config": 1,
    "research.search_space": 1,
    "research.errors": 1,
    "research.files": 1,
    "research.hub": 1,
    "research.locks": 1,
    "research.memory": 1,
    "research.plugins": 1,
    "research.ranges": 1,
    "research.values": 1,
    "research": 0,
}
SERIALIZERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
type Sources = dict[str, str]


@pytest.fixture(scope="module")
def house() -> Sources:
    """Path -> text of every Python file of the project."""
    folders = ("research", "experiments", "configs", "tests")
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def package_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "research" else parts[0]


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imported(path: str, source: str) -> Iterator[str]:
    """The modules that a file imports, relative ones resolved; `from a import b` gives both a and a.b."""
    folder = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def dependencies(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """(path, its package, a package of the project that it imports), except its own; tests may import anything."""
    for path, source in sources.items():
        own = package_of(module_of(path))
        for package in {package_of(module) for module in imported(path, source)} - {own}:
            if own != "tests" and package.split(".")[0] in ("research", "experiments", "configs", "tests"):
                yield path, own, package


def upward_imports(sources: Sources) -> list[str]:
    wrong = []
    for path, own, package in dependencies(sources):
        allowed = package in FLOORS and FLOORS[package] <= FLOORS[own] and package != "configs"
        if not allowed or (own == "configs" and package == "experiments"):
            wrong.append(f"{path} imports {package}")
    return wrong


def circle(sources: Sources) -> list[str]:
    graph: dict[str, set[str]] = {}
    for _, own, package in dependencies(sources):
        graph.setdefault(own, set()).add(package)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def dangers(sources: Sources) -> list[str]:
    """Calls of exec and eval, anything that unpickles, and the deprecated `with mesh:`."""
    found = []
    for path, source in sources.items():
        modules = {module.split(".")[0] for module in imported(path, source)}
        found += [f"{path} imports {name}" for name in modules & SERIALIZERS]
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(func=ast.Name(id="exec" | "eval" as name)):
                    found.append(f"{path}:{node.lineno} calls {name}")
                case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                    found.append(f"{path}:{node.lineno} allows pickle")
                case ast.withitem(context_expr=(ast.Name() | ast.Attribute()) as context) if "mesh" in ast.unparse(
                    context
                ):
                    found.append(f"{path}:{context.lineno} uses `with {ast.unparse(context)}:`")
    return found


def undocumented(sources: Sources) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [
        f"{path}:{node.lineno} {node.name}"
        for path, source in sources.items()
        for node in ast.parse(source).body
        if path.startswith("research/") and isinstance(node, kinds)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]


def test_floors(house: Sources) -> None:
    assert len(house) > 10
    packages = {package_of(module_of(path)) for path in house} - {"tests"}
    assert packages <= set(FLOORS), f"give {packages - set(FLOORS)} a floor in the README and in FLOORS"
    assert upward_imports(house) == []
    assert circle(house) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("research/layers/a.py", "import research.models.gpt"),
        ("research/layers/a.py", "def f():\n    from research import models"),
        ("research/layers/a.py", "from ..models import gpt"),
        ("research/layers/a.py", "from .. import training"),
        ("research/data/a.py", "from research.tasks.task import Task"),
        ("research/training/a.py", "from research.runs.experiment import load"),
        ("experiments/a.py", "from configs.vision import digits"),
        ("configs/vision/a.py", "from configs.vision import digits as d\nfrom experiments import train"),
        ("research/config.py", "from research.somewhere import x"),
        ("research/models/a.py", "from tests import conftest"),
    ],
)
def test_upward_imports_are_found(path: str, source: str) -> None:
    assert upward_imports({path: source}) != []


def test_downward_imports_are_allowed() -> None:
    source = "import jax\nfrom . import b\nfrom .b import c\nfrom research.layers import d\nfrom research import config"
    assert upward_imports({"research/models/a.py": source, "tests/a.py": "import configs.a"}) == []


def known_by_class(sources: Sources) -> list[str]:
    """Files above the tasks that know a task, a model or a source by its class, except the tables of their names."""
    above = ("experiments/", "research/runs/", "research/reports/", "research/analysis/", "research/training/")
    above += ("research/serving/", "research/compression/")
    shared = {"research.tasks.task", "research.tasks.logits", "research.models.contract"}
    shared |= {
        f"research.data.{name}"
        for name in ("image_files", "loader", "plain_text", "plans", "rows", "source", "token_store")
    }
    return [
        f"{path} knows {module}"
        for path, source in sources.items()
        if path.startswith(above) and path != "research/runs/tables.py"
        for module in imported(path, source)
        if module.startswith(("research.tasks.", "research.models.", "research.data."))
        if module not in shared and module.rpartition(".")[0] not in shared
    ]


def test_only_the_tables_know_tasks_models_and_sources(house: Sources) -> None:
    assert known_by_class(house) == []


def test_knowledge_of_a_class_is_found() -> None:
    source = "from research.tasks.translation import Translation"
    assert known_by_class({"research/serving/a.py": source})
    assert known_by_class({"research/reports/a.py": source}) and not known_by_class({"research/runs/tables.py": source})
    assert not known_by_class({"research/reports/a.py": "from research.tasks.task import Task, View"})


def test_circles_are_found() -> None:
    sources = {
        "research/layers/a.py": "from research.config import build",
        "research/config.py": "from research.parallel.mesh import m",
        "research/parallel/a.py": "from research.layers import a",
    }
    assert set(circle(sources)) == {"research.layers", "research.config", "research.parallel"}
    del sources["research/config.py"]
    assert circle(sources) == []


def test_nothing_dangerous(house: Sources) -> None:
    assert dangers(house) == []


@pytest.mark.parametrize(
    "source",
    [
        "with mesh:\n    pass",
        "with self.mesh, open(p):\n    pass",
        "exec('1')",
        "x = eval(text)",
        "import pickle",
        "from cloudpickle import loads",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_dangers_are_found(source: str) -> None:
    assert dangers({"research/a.py": source}) != []
    assert dangers({"research/a.py": "with jax.set_mesh(mesh):\n    model.eval()"}) == []


def test_files_are_small(house: Sources) -> None:
    assert {path: lines for path, text in house.items() if (lines := text.count("\n")) > 400} == {}


def test_public_names_have_docstrings(house: Sources) -> None:
    assert undocumented(house) == []


def test_missing_docstrings_are_found() -> None:
    source = "def f(): pass\nclass C: pass\ndef _g(): pass\nclass D:\n    'Documented.'"
    assert undocumented({"research/a.py": source}) == ["research/a.py:1 f", "research/a.py:2 C"]
