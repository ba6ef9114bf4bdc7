"""Rooms: who imports whom, read from the imports themselves, those inside functions too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deepemhancer_plugin

PACKAGE = Path(deepemhancer_plugin.__file__).parent
CORE = PACKAGE / "core"
# From the bottom up: a room may import those before it, and no other.
ROOMS = (
    "errors",
    "files",
    "backend",
    "plotting",
    "devices",
    "maps",
    "noise",
    "weights",
    "simulation",
    "enhancement",
    "evaluation",
    "training",
    "localres",
    "relion",
    "commands",
)
FRAMEWORKS = {"tensorflow", "keras", "torch", "jax", "h5py", "scipy", "gemmi", "matplotlib"}


def module_name(path: Path) -> str:
    """The dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(tree: ast.AST):
    """Every node but those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if not is_for_types(node):
            yield node
            yield from statements(node)


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}
CORE_MODULES = sorted(name for name in MODULES if name.startswith("deepemhancer_plugin.core."))


def room(name: str) -> str:
    """The folder, or the file that lies in none, of a module of the core."""
    return name.split(".")[2]


def test_every_room_has_its_place():
    assert {room(name) for name in CORE_MODULES} - {"__main__"} == set(ROOMS)


@pytest.mark.parametrize("name", CORE_MODULES)
def test_rooms_import_those_below_them(name):
    if room(name) == "__main__":
        return
    allowed = ROOMS[: ROOMS.index(room(name)) + 1]
    for other in IMPORTS[name]:
        if other.startswith("deepemhancer_plugin.core."):
            assert room(other) in allowed, f"{name} imports {other}"


def test_no_circle_of_imports():
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in IMPORTS[name]:
            if other in MODULES:
                visit(other, (*way, name))
        done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in CORE_MODULES if room(name) != "commands"])
def test_topics_know_no_command_line(name):
    assert "argparse" not in IMPORTS[name]
    calls = [n for n in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(n, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "print"]


@pytest.mark.parametrize("name", [name for name in CORE_MODULES if room(name) == "commands"])
def test_commands_import_no_other_command(name):
    shared = {
        f"deepemhancer_plugin.core.commands.{helper}" for helper in ("flags", "terminal", "main")
    }
    commands = {other for other in IMPORTS[name] if other.startswith("deepemhancer_plugin.core.c")}
    assert commands <= shared


@pytest.mark.parametrize("name", CORE_MODULES)
def test_core_never_imports_scipion(name):
    foreign = {other.split(".")[0] for other in IMPORTS[name]}
    assert not foreign & {"pyworkflow", "pwem", "scipion", "xmipp3"}


def test_scipion_side_imports_no_framework():
    for name, path in MODULES.items():
        if not path.is_relative_to(CORE):
            assert not IMPORTS[name] & {"tensorflow", "keras", "torch", "jax"}, name


def test_face_is_imported_without_a_framework():
    """Not even NumPy, which is what makes it a matter of milliseconds."""
    code = (
        "import sys; import deepemhancer_plugin.core as core; dir(core); "
        f"print(sorted({FRAMEWORKS | {'numpy'}} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
