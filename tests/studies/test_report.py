"""Reports store in full all that they print."""

import json

import numpy as np
import pytest

from ncgn_jax.pictures import Panel, draw_panels
from ncgn_jax.studies.report import VERDICTS, Report, run_study, verdict_of


def test_verdicts_follow_the_checks():
    cases = [True, np.True_], [True, False], [False], np.array([False, True])
    found = [verdict_of(checks) for checks in cases]
    assert found == [VERDICTS[i] for i in (0, 1, 2, 1)]


def test_results_hold_every_digit_and_no_nan(tmp_path, capsys):
    def study(report):
        assert report.quick
        assert report.seed == 3
        rows = [["third", np.float64(1) / 3], ["nothing", np.nan], ["absent", None]]
        report.add_table("t", "Thirds", ["name", "value"], rows)
        report.add_finding("thirds are thirds", "holds in part", "one of three")
        panel = Panel("A", "x", "y", {"c": ([1, 2], [3, np.nan])}, level=1.0)
        report.add_figure("figure", draw_panels([panel]))

    run_study("t", "A test.", study, ["--quick", "--seed=3", f"--workdir={tmp_path}"])
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["tables"]["t"]["rows"]
    assert rows == [["third", 1 / 3], ["nothing", None], ["absent", None]]
    assert results["findings"][0]["verdict"] == "holds in part"
    assert (tmp_path / results["figures"]["figure"]).stat().st_size > 1000
    printed = capsys.readouterr().out
    for text in (printed, (tmp_path / "report.md").read_text()):
        assert "0.3333" in text
        assert "thirds are thirds: holds in part (one of three)" in text


def test_bad_entries_are_refused(tmp_path):
    report = Report("t", tmp_path)
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        report.add_table("a", "A", ["name", "value"], [["one"]])
    report.add_table("a", "A", ["name", "value"], [["one", 1]])
    with pytest.raises(ValueError, match="exists already"):
        report.add_table("a", "A", ["name", "value"], [])
    with pytest.raises(ValueError, match="verdict: found 'perhaps'"):
        report.add_finding("claim", "perhaps", "")
    assert not list(tmp_path.iterdir())


def test_bad_panels_are_refused():
    with pytest.raises(ValueError, match="no panels"):
        draw_panels([])
    with pytest.raises(ValueError, match="curve 'c'"):
        draw_panels([Panel("A", "x", "y", {"c": ([1, 2], [3])})])


def test_many_curves_that_panels_share_have_one_legend():
    def draw(num_curves, other=()):
        curves = {f"c{i}": ([0, 1], [i, i]) for i in range(num_curves)}
        panels = [Panel("A", "x", "y", curves), Panel("B", "x", "y", {**curves})]
        for name in other:
            panels[1].curves[name] = ([0, 1], [0, 0])
        figure = draw_panels(panels)
        return len(figure.legends), sum(bool(a.get_legend()) for a in figure.axes)

    assert draw(5) == (1, 0)
    assert draw(4) == (0, 2)
    assert draw(5, other=["more"]) == (0, 2)
