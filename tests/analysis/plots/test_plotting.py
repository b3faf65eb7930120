"""`posttrain plot` and `posttrain.analysis.plot`: what is drawn is what the run directories say, at the size it will be printed."""

from __future__ import annotations

import csv
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from posttrain.analysis import FIGURES, figures, plot
from posttrain.analysis.input_error import InputError
from posttrain.analysis.plots.plotting import WIDTHS
from posttrain.analysis.plots.run_reader import Takes
from posttrain.analysis.stats import cover_at_tau, mean_interval
from posttrain.diagnose.probes import PROBES
from posttrain.diagnose.storage.files import write_json

INCH = 72


def given(figure: str, runs: Path) -> list[Path]:
    folders = {Takes.COMPARISONS: "compared", Takes.LOOPS: "looped", Takes.CHECKPOINTS: "along"}
    return [runs / folders.get(FIGURES[figure].takes, "before")]


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def behavior_of(path: Path, name: str = "sums") -> dict[str, Any]:
    data = json.loads(path.read_text())
    found: dict[str, Any] = next(entry for entry in data["behaviors"] if entry["name"] == name)
    return found


def test_every_figure_is_in_the_registry() -> None:
    modules = {
        module.name: importlib.import_module(f"{figures.__name__}.{module.name}")
        for module in pkgutil.iter_modules(figures.__path__)
    }
    assert {name for name, module in modules.items() if hasattr(module, name)} == set(FIGURES)


def test_a_figure_of_a_probe_names_a_probe() -> None:
    known = {probe.name for probe in PROBES}
    assert all(set(spec.probes) <= known for spec in FIGURES.values())


def test_the_registry_needs_no_matplotlib() -> None:
    lines = "import sys; from posttrain.analysis import FIGURES; print([n for n in ('matplotlib', 'scipy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --------------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("figure", list(FIGURES))
@pytest.mark.parametrize("width", list(WIDTHS))
def test_a_page_is_as_wide_as_asked_and_embeds_its_fonts(figure: str, width: str, runs: Path, tmp_path: Path) -> None:
    plot(figure, given(figure, runs), out=tmp_path / "figure", width=width)
    pdf, svg = (tmp_path / "figure.pdf").read_bytes(), (tmp_path / "figure.svg").read_text()
    box = re.search(rb"/MediaBox \[ ?([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box is not None
    assert float(box[3]) == pytest.approx(WIDTHS[width] * INCH, abs=0.1)
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert f'width="{WIDTHS[width] * INCH:g}pt"' in svg
    assert "<text" not in svg
    assert read_csv(tmp_path / "figure.csv")


@pytest.mark.parametrize("figure", list(FIGURES))
def test_nothing_is_cut_at_the_edge(figure: str, runs: Path, tmp_path: Path) -> None:
    plot(figure, given(figure, runs), out=tmp_path / "figure.png", behavior=() if figure == "retention" else "sums")
    pixels = imread(tmp_path / "figure.png")[:, :, :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert np.all(edge == 1.0)


def test_the_same_runs_give_the_same_files(runs: Path, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        plot("success_histogram", runs / "before", out=tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_tables(runs: Path, tmp_path: Path) -> None:
    plot("pass_at_k", runs / "before", out=[tmp_path / "t.tex", tmp_path / "t.md"], behavior="sums", label="base")
    point = behavior_of(runs / "before" / "diagnosis.json")["pass_at_k"][0]
    markdown = (tmp_path / "t.md").read_text()
    assert markdown.startswith("| behavior | run | pass@1 |")
    assert f"{point['estimate']:.2f}" in markdown
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    assert "& base &" in (tmp_path / "t.tex").read_text()


# ------------------------------------------------------------------------------------------------------------------- numbers


def test_pass_at_k_shows_the_numbers_of_the_run(runs: Path) -> None:
    rows = plot("pass_at_k", runs / "before", behavior="sums").rows
    points = behavior_of(runs / "before" / "diagnosis.json")["pass_at_k"]
    keys = ("k", "estimate", "low", "high", "extrapolated")
    assert [[row[key] for key in keys] for row in rows] == [[point[key] for key in keys] for point in points]


def test_a_comparison_gives_its_two_sides(runs: Path) -> None:
    rows = plot("pass_at_k", runs / "compared", behavior="kept").rows
    stored = behavior_of(runs / "compared" / "compare.json", "kept")["pass_at_k"]
    for side in ("before", "after"):
        assert [row["estimate"] for row in rows if row["run"] == side] == [point["estimate"] for point in stored[side]]


def test_crossing_curves_are_marked(runs: Path, tmp_path: Path) -> None:
    """Before: all problems now and then. After: half of them always, the others never."""
    for name, correct in (("before", [6] * 80), ("after", [16] * 40 + [0] * 40)):
        shutil.copytree(runs / "before", tmp_path / name)
        path = tmp_path / name / "diagnosis.json"
        data = json.loads(path.read_text())
        data["behaviors"] = data["behaviors"][:1]
        problem = data["behaviors"][0]["problems"][0]
        data["behaviors"][0]["problems"] = [
            {**problem, "id": str(index), "num_correct": count} for index, count in enumerate(correct)
        ]
        write_json(path, data)
    crossing = [row for row in plot("pass_at_k", [tmp_path / "before", tmp_path / "after"]).rows if row["run"] == "crossing"]
    assert len(crossing) == 1
    # 6 of 16: pass@1 .375, pass@2 .625; the other curve is flat at .5.
    assert 1 < crossing[0]["k"] < 2
    assert crossing[0]["k_low"] <= crossing[0]["k"] <= crossing[0]["k_high"]
    assert crossing[0]["probability"] >= 0.95
    assert not [row for row in plot("pass_at_k", [runs / "before", runs / "before"]).rows if row["run"] == "crossing"]


def test_cover_is_that_of_the_estimator(runs: Path) -> None:
    rows = plot("cover_at_tau", [runs / "before", runs / "after"], behavior="sums").rows
    for name in ("before", "after"):
        problems = behavior_of(runs / name / "diagnosis.json")["problems"]
        counts = [[problem[key] for problem in problems] for key in ("num_samples", "num_correct")]
        mine = {row["tau"]: row for row in rows if row["run"] == name}
        assert 1.0 in mine
        for tau, row in mine.items():
            expected = mean_interval(cover_at_tau(*counts, tau))
            assert [row[key] for key in ("estimate", "low", "high")] == pytest.approx(
                [expected.estimate, expected.low, expected.high]
            )


def test_histogram_counts_every_problem_and_fits_them(runs: Path) -> None:
    rows = plot("success_histogram", runs / "before", behavior="sums").rows
    bins = [row for row in rows if row["from"] < row["to"]]
    problems = behavior_of(runs / "before" / "diagnosis.json")["problems"]
    assert sum(row["problems"] for row in bins) == len(problems)
    assert bins[0]["problems"] == sum(problem["num_correct"] == 0 for problem in problems)
    assert sum(row["mixture_estimate"] for row in bins) == pytest.approx(len(problems))
    assert all(row["mixture_low"] <= row["mixture_estimate"] <= row["mixture_high"] for row in bins)
    masses = {row["from"]: row for row in rows if row["from"] == row["to"]}
    assert set(masses) == {0.0, 1.0}
    # A third of the problems has rate 0; nearly none has rate 1.
    assert masses[0.0]["mixture_high"] > 6
    assert masses[1.0]["mixture_high"] < 12


def test_checks_and_changes_are_those_of_the_files(runs: Path) -> None:
    stored = behavior_of(runs / "before" / "diagnosis.json")["checks"]
    assert [(row["name"], row["estimate"], row["outcome"]) for row in plot("checks", runs / "before", behavior="sums").rows] == [
        (check["name"], check["estimate"], check["outcome"]) for check in stored
    ]
    compared = behavior_of(runs / "compared" / "compare.json")
    problems = plot("before_after", runs / "compared", behavior="sums").rows
    assert [(row["id"], row["before"], row["after"], row["state"]) for row in problems] == [
        (problem["id"], problem["before"], problem["after"], problem["state"]) for problem in compared["problems"]
    ]
    rows = plot("support_transitions", runs / "compared", behavior="sums").rows
    counts = {row["state"]: row["problems"] for row in rows if "state" in row}
    assert sum(counts.values()) == compared["num_problems"]
    assert counts["preserved"] == sum(problem["state"] == "preserved" for problem in compared["problems"])
    nulls = {row["name"]: row["null_low"] for row in rows if "name" in row}
    assert nulls == {name: row["null"]["low"] for name, row in compared["support"].items()}


def test_retention_shows_paired_changes(runs: Path) -> None:
    rows = {row["behavior"]: row for row in plot("retention", runs / "compared").rows}
    assert {name: row["group"] for name, row in rows.items()} == {"sums": "target", "kept": "retention"}
    delta = behavior_of(runs / "compared" / "compare.json", "kept")["pass_at_1"]["delta"]
    assert [rows["kept"][key] for key in ("estimate", "low", "high")] == [delta[key] for key in ("estimate", "low", "high")]
    assert rows["kept"]["high"] < 0 < rows["sums"]["estimate"]


def test_steps_are_summed_within_paths(runs: Path) -> None:
    rows = plot("step_likelihood", runs / "before", behavior="kept").rows
    # The scripted model writes the reference with chance .95; what is improbable is its beginning.
    assert rows[0]["estimate"] == pytest.approx(-np.log(0.95), abs=0.01)
    assert rows[1]["estimate"] < 0.01
    assert {row["n"] for row in rows} == {len(behavior_of(runs / "before" / "diagnosis.json", "kept")["problems"])}


def test_behaviors_and_labels(runs: Path) -> None:
    rows = plot("pass_at_k", [runs / "before", runs / "after"], label=["base", "grpo"]).rows
    assert {row["panel"] for row in rows} == {"sums", "kept"}
    assert {row["run"] for row in rows} - {"crossing"} == {"base", "grpo"}
    assert {row["panel"] for row in plot("pass_at_k", runs / "before", behavior=["kept"]).rows} == {"kept"}


# --------------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("pas_at_k", "before"), "unknown_figure", "pass_at_k"),
        (("pass@k", "nowhere"), "missing_folder", "nowhere"),
        (("pass_at_k",), "no_folder", "posttrain diagnose"),
        (("checks", "compared"), "wrong_folder", "posttrain diagnose"),
        (("retention", "before"), "wrong_folder", "posttrain compare"),
        (("retention", "targets-compared"), "nothing_to_retain", "purpose: retention"),
        (("reference_likelihood", "no-references"), "no_references", "sums"),
        (("drift", "no-references"), "probe_not_run", "--probes drift"),
        (("pass_at_k", "."), "wrong_folder", "after"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(arguments: tuple[str, ...], code: str, named: str, runs: Path) -> None:
    figure, *folders = arguments
    with pytest.raises(InputError) as caught:
        plot(figure, [runs / folder for folder in folders])
    assert caught.value.code == code
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"behavior": "sum"}, "unknown_behavior", "sums, kept"),
        ({"label": ["a", "b"]}, "number_of_labels", "2"),
        ({"width": "page"}, "width", "column (3.3), text (6.9)"),
        ({"width": 100}, "width", "100"),
        ({"out": "figure.jpg"}, "unknown_suffix", ".pdf, .svg, .png, .tex, .md, .csv"),
        ({"out": "."}, "out_is_no_file", "file"),
        ({"out": ""}, "out_is_no_file", "file"),
        ({"out": "/dev/null"}, "out_is_no_file", "file"),
        ({"behavior": ["sums", "sums"]}, "name_twice", "sums"),
        ({"label": ["a", "a"]}, "name_twice", "a"),
    ],
)
def test_wrong_options(options: dict[str, Any], code: str, named: str, runs: Path) -> None:
    with pytest.raises(InputError) as caught:
        plot("pass_at_k", runs / "before", **options)
    assert caught.value.code == code
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "unreadable_file"),
        ('{"schema": 2, "behaviors": [{"name": "a"}]}', "unknown_version"),
        ('{"schema": 1, "behaviors": []}', "no_behavior"),
        ('{"schema": 1, "behaviors": [{"name": "a"}]}', "missing_field"),
        ('{"schema": 1, "behaviors": [{"name": "a", "pass_at_k": [{"estimate": 0.5}]}]}', "unreadable_field"),
    ],
)
def test_files_that_cannot_be_read(content: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "diagnosis.json").write_text(content)
    with pytest.raises(InputError) as caught:
        plot("pass_at_k", tmp_path)
    assert caught.value.code == code


def test_an_unfinished_run_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        plot("pass_at_k", tmp_path)
    assert caught.value.code == "unfinished_run"


def test_unknown_fields_are_ignored(runs: Path, tmp_path: Path) -> None:
    data = json.loads((runs / "before" / "diagnosis.json").read_text())
    data["future"] = 1
    data["behaviors"][0]["future"] = {"x": 1}
    write_json(tmp_path / "diagnosis.json", data)
    assert plot("pass_at_k", tmp_path).rows


# -------------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def posttrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        from posttrain.cli import main

        monkeypatch.setattr(sys, "argv", ["posttrain", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_plot_from_the_command_line(posttrain: Any, runs: Path, tmp_path: Path) -> None:
    code, out, err = posttrain(
        "plot", "pass_at_k", runs / "before", runs / "after", "--label", "base", "--label", "grpo", "--behavior", "sums",
        "--width", "text", "--out", tmp_path / "new" / "curve", "--out", tmp_path / "curve.tex",
    )  # fmt: skip
    assert (code, err) == (0, "")
    written = ["new/curve.pdf", "new/curve.svg", "new/curve.csv", "curve.tex", "curve.csv"]
    assert out.splitlines() == [str(tmp_path / name) for name in written]
    points = behavior_of(runs / "after" / "diagnosis.json")["pass_at_k"]
    rows = [row for row in read_csv(tmp_path / "curve.csv") if row["run"] == "grpo"]
    assert [float(row["estimate"]) for row in rows] == [point["estimate"] for point in points]


def test_figures_are_listed(posttrain: Any) -> None:
    code, out, _ = posttrain("figures")
    assert code == 0
    listed = json.loads(posttrain("figures", "--json")[1])
    assert [entry["name"] for entry in listed] == list(FIGURES)
    assert all(entry["name"] in out and entry["shows"] in out and entry["takes"] in out for entry in listed)


def test_the_command_line_refuses_in_one_line(posttrain: Any, runs: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (("covr_at_tau", runs / "before"), "did you mean cover_at_tau"),
        (("pass_at_k", tmp_path), "this figure takes"),
        (("pass_at_k", runs / "before", "--behavior", "kep"), "measured there: sums, kept"),
    ):
        code, out, err = posttrain("plot", *arguments, "--out", tmp_path / "a.pdf")
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1
        assert said in err
    assert not list(tmp_path.iterdir())
    assert posttrain("plot", "pass_at_k", runs / "before")[0] == 2


def test_help_shows_examples(posttrain: Any) -> None:
    for verb in ("plot", "figures"):
        assert f"Examples:\n    posttrain {verb}" in posttrain(verb, "--help")[1]


def test_plot_needs_neither_torch_nor_pyplot(runs: Path, tmp_path: Path) -> None:
    lines = (
        "import sys\nfrom posttrain import analysis\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"analysis.plot('step_likelihood', {str(runs / 'before')!r}, out={str(tmp_path / 'a.svg')!r})\n"
        "print([name for name in ('torch', 'matplotlib.pyplot', 'posttrain.diagnose') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_turns_are_drawn_from_the_file_and_a_run_without_them_is_refused(runs: Path, tmp_path: Path) -> None:
    plot("pass_at_k_by_turns", runs / "before", out=tmp_path / "turns.svg", behavior="sums")
    rows = read_csv(tmp_path / "turns.csv")
    assert [(row["turns"], row["k"]) for row in rows] == [(str(turns), str(k)) for turns in (1, 2, 3) for k in (1, 4)]
    shutil.copytree(runs / "before", tmp_path / "single")
    data = json.loads((tmp_path / "single" / "diagnosis.json").read_text())
    for entry in data["behaviors"]:
        entry["turn_limits"] = []
    write_json(tmp_path / "single" / "diagnosis.json", data)
    with pytest.raises(InputError) as refused:
        plot("pass_at_k_by_turns", tmp_path / "single", out=tmp_path / "none.svg")
    assert refused.value.code == "no_turns"
