"""The package as others install it: nothing generic in site-packages, and no clash with what a user calls `analysis` or `trainers`."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USER_SCRIPT = """
import analysis, trainers.mine
assert analysis.MINE and trainers.mine.MINE
import posttrain.analysis.stats, posttrain.diagnose, posttrain.trainers
from posttrain import diagnose
print(posttrain.analysis.stats.pass_at_k([4], [1], 2)[0], diagnose.load_behavior("products").name, posttrain.trainers.train.__name__)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """Make a user's own folder, with names that clash with ours and with the standard library's."""
    (tmp_path / "analysis.py").write_text("MINE = True\n")
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").write_text("")
    (tmp_path / "trainers" / "mine.py").write_text("MINE = True\n")
    (tmp_path / "script.py").write_text(USER_SCRIPT)
    return tmp_path


def test_the_wheel_holds_one_package_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"posttrain"}
    for wanted in (
        "posttrain/diagnose/pipeline/diagnose_run.py",
        "posttrain/trainers/recipes/grpo.py",
        "posttrain/diagnose/behaviors/bundled/products.yaml",
        "posttrain/diagnose/report/report.html.j2",
        "posttrain/diagnose/report/report.css",
        "posttrain/analysis/figures/paper.mplstyle",
        "posttrain/py.typed",
    ):
        assert wanted in names
    # Every module of the folders at the top is in: a package that pyproject.toml forgot would be missing here.
    for folder in ("posttrain", "diagnose", "trainers", "analysis"):
        for module in (ROOT / folder).rglob("*.py"):
            inside = module.relative_to(ROOT).as_posix()
            assert (inside if folder == "posttrain" else f"posttrain/{inside}") in names


def test_a_user_with_the_same_names_is_unharmed_by_the_editable_install(user_folder: Path) -> None:
    done = subprocess.run([sys.executable, "script.py"], cwd=user_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5", "products", "train"]


def test_a_user_with_the_same_names_is_unharmed_by_the_wheel(wheel: Path, user_folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The unpacked wheel comes first on the path, so that it and not the editable install is what is imported.
    code = (
        f"import sys; sys.path.insert(1, {str(site)!r}); sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f).lower()];"
        "import posttrain; assert '/site/' in posttrain.__file__, posttrain.__file__;"
        "exec(open('script.py').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=user_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5", "products", "train"]


def test_measuring_needs_no_torch() -> None:
    code = (
        "import sys\nimport posttrain.diagnose, posttrain.analysis.stats, posttrain.analysis.figures\n"
        "from posttrain.diagnose import run, compare, load_behavior\n"
        "heavy = [m for m in ('torch', 'transformers', 'vllm', 'reasoning_gym') if m in sys.modules]\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
