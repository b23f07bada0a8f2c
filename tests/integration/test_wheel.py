"""The built wheel is whole, owns one name only, and runs on nothing but the dependencies it declares."""

import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[2]
RUNTIME_LOCK = ROOT / "requirements.lock"
BUILD_TOOLS = {"hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"}


class Installed(NamedTuple):
    wheel: Path
    home: Path
    site_packages: Path

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `frostgate` away from the checkout, with an empty environment."""
        return subprocess.run(
            [self.home / "bin" / "frostgate", *arguments],
            cwd=self.home,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, which sees of this one only the locked runtime dependencies."""
    scratch = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(ROOT))
    (wheel,) = scratch.glob("*.whl")
    home = scratch / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    (site_packages,) = home.glob("lib/python*/site-packages")
    pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"))
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    _link_dependencies(scratch / "dependencies")
    (site_packages / "dependencies.pth").write_text(f"{scratch / 'dependencies'}\n")
    return Installed(wheel, home, site_packages)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _link_dependencies(folder: Path) -> None:
    """Link what the runtime lock names out of the running environment, so that the test needs no network."""
    folder.mkdir()
    locked = re.findall(r"^([a-z0-9-]+)==\S+ (?:; (.*) )?\\$", RUNTIME_LOCK.read_text(), re.MULTILINE)
    wanted = {name for name, marker in locked if not marker or Marker(marker).evaluate()}
    for name in wanted - BUILD_TOOLS:
        for file in distribution(name).files or []:
            top = folder / file.parts[0]
            source = Path(str(distribution(name).locate_file(file.parts[0])))
            if file.parts[0] != ".." and not top.exists() and source.exists():
                top.symlink_to(source)


def test_installing_the_wheel_adds_one_name_to_site_packages(installed: Installed) -> None:
    added = {path.name for path in installed.site_packages.iterdir()} - {"dependencies.pth"}
    version = distribution("frostgate").version
    assert added == {"frostgate", f"frostgate-{version}.dist-info"}


def test_the_wheel_holds_everything_that_is_read_at_run_time(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    read_at_run_time = [
        *(ROOT / "sinks" / "migrations").glob("*.sql"),
        *(ROOT / "policies").glob("*.rego"),
        *(ROOT / "edge").glob("*.lua"),
        *(ROOT / package / "py.typed" for package in ("schemas", "edge", "streams", "sinks", "ops")),
        ROOT / "nats.conf",
    ]
    assert {file.suffix for file in read_at_run_time} == {".sql", ".rego", ".lua", ".typed", ".conf"}
    assert {f"frostgate/_app/{file.relative_to(ROOT).as_posix()}" for file in read_at_run_time} <= names


def test_the_wheel_holds_no_test_no_chaos_and_no_cache(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    unwanted = {"tests", "chaos", "__pycache__", ".frostgate"}
    assert [name for name in names if unwanted & set(name.split("/"))] == []


def test_the_installed_command_says_its_version(installed: Installed) -> None:
    said = installed.run("--version")
    assert (said.returncode, said.stdout) == (0, f"frostgate {distribution('frostgate').version}\n"), said.stderr


@pytest.mark.parametrize("command", ["up", "edge", "worker", "migrate", "doctor", "send", "bench"])
def test_each_installed_command_loads_without_the_checkout(installed: Installed, command: str) -> None:
    said = installed.run(command, "--help")
    assert said.returncode == 0, said.stderr
    assert "Usage:" in said.stdout


def test_the_installed_modules_come_from_the_wheel(installed: Installed) -> None:
    said = subprocess.run(
        [installed.home / "bin" / "python", "-I", "-c", "import frostgate, ops.cli; print(ops.cli.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(said.stdout.strip()) == installed.site_packages / "frostgate" / "_app" / "ops" / "cli.py"


def test_an_editable_install_holds_no_copy_of_the_code(tmp_path: Path) -> None:
    """A copy in site-packages would hide the checkout, and every later change of it, for ever."""
    subprocess.run(
        [sys.executable, "-c", f"import hatchling.build; hatchling.build.build_editable({str(tmp_path)!r})"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    outside_metadata = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert outside_metadata == ["_frostgate.pth"]
