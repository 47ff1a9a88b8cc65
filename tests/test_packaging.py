"""The wheel works outside the repository: every package, recipe and policy is in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "rlalign": "rlalign",
    "agents": "rlalign/agents",
    "envs": "rlalign/envs",
    "recipes": "rlalign/recipes",
}
DATA = {".yaml", ".json", ".safetensors", ".css", ".html", ".typed"}


def shipped_sources() -> set[str]:
    """Paths, as in a wheel, of all code and data in the four folders."""
    found = set()
    for folder, inside in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and (path.suffix in DATA | {".py"} or path.name == "py.typed"):
                found.add(f"{inside}/{path.relative_to(ROOT / folder).as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, so that the build leaves nothing behind here."""
    copy = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("wheel")
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"),
        *("--no-build-isolation", "--wheel-dir", str(out), str(copy)),
    )
    (built,) = out.glob("rlalign-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel, which sees this one's other packages."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"),
        *("--no-deps", "--no-index", str(wheel)),
    )
    # A path file adds the folder alone: the editable installation of rlalign there stays unseen.
    site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command that has to succeed, and return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_folder_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(settings["tool"]["setuptools"]["packages"])
    modules = (Path(path) for path in shipped_sources() if path.endswith(".py"))
    assert {str(path.parent).replace("/", ".") for path in modules} == listed


def test_every_source_and_data_file_is_in_the_wheel(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert shipped_sources() == names
    assert any(name.endswith("recipes/demo.yaml") for name in names)


def test_installed_wheel_imports_from_its_own_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import rlalign, rlalign.agents, rlalign.envs, rlalign.recipes, rlalign.data.dataset\n"
        "from rlalign.agents import IQL\n"
        "import sys; print(*(m.__file__ for n, m in sys.modules.items()"
        " if n.startswith('rlalign') and getattr(m, '__file__', None)), sep='\\n')"
    )
    files = run(str(installed / "bin" / "python"), "-c", code, cwd=tmp_path).split()
    assert len(files) > 5
    assert all(Path(file).is_relative_to(installed) for file in files), files


def test_installed_command_line_shows_help_and_recipes(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "rlalign")
    assert "train" in run(command, "--help", cwd=tmp_path)
    assert "demo" in run(command, "recipes", cwd=tmp_path)
