"""`specdec plan --report`: the page and its figures, and what is refused before any work."""

from pathlib import Path

from sim_commands import STEPS, Run, refused

PLAN = ("plan", *STEPS, "--acceptance", "0.8", "--batches-are-free", "--arrivals", "poisson:2/s", "--requests", "100")
FEW = ("--input-tokens", "10", "--output-tokens", "20", "--batch-limit", "2", "--strategy", "speculative", "--no-schedules")


def test_a_page_and_its_figures(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    ran = run(*PLAN, *FEW, "--e2e-p90", "1s", "--report", page)
    assert ran.code == 0, ran
    assert "Wrote" in ran.err
    text = page.read_text("utf-8")
    assert "--arrivals poisson:2/s" in text
    assert "--e2e-p90 1s" in text
    assert len({path.stem for path in (tmp_path / "plan.figures").iterdir()}) == 8


def test_a_report_that_cannot_be_written_is_refused_first(run: Run, tmp_path: Path) -> None:
    assert "end its name in .html" in refused(run, *PLAN, "--report", str(tmp_path / "plan.pdf"))
    assert "no folder" in refused(run, *PLAN, "--report", str(tmp_path / "nowhere" / "plan.html"))
    assert "no effect with --check" in refused(run, "plan", "--check", "plan.json", "--report", str(tmp_path / "plan.html"))
