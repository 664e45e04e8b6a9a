"""The container: what goes into it."""

from modulefinder import ModuleFinder

from conftest import ROOT

BESIDES = {"model.bin", "static", "templates"}
FOR_THE_BUILD = {"Pipfile", "Pipfile.lock"}


def test_what_serving_imports_goes_in_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    everything, *allowed = (line for line in lines if not line.startswith("#"))
    assert everything == "*"
    assert set(allowed) == {f"!{name}" for name in served() | FOR_THE_BUILD}


def served() -> set[str]:
    """Name what serving reads: its scripts, by all that they import, and the rest."""
    finder, entries = ModuleFinder([str(ROOT)]), {"gunicorn.conf.py", "predict.py"}
    for entry in entries:
        finder.run_script(str(ROOT / entry))
    ours = {path.name for path in ROOT.glob("*.py")}
    return ours & {f"{name}.py" for name in finder.modules} | entries | BESIDES
