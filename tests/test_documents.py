"""The documents: their links lead somewhere, their code runs, their numbers are those of the committed results."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import yaml

pytestmark = pytest.mark.usefixtures("no_plots")

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
FOR_PEOPLE = [ROOT / "README.md", *(ROOT / "docs" / name for name in ("ship.md", "compare.md"))]


def python_of(document):
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", FOR_PEOPLE, ids=lambda path: path.name)
def test_code_runs(document, tmp_path, monkeypatch, tiny_backbone):
    """With a tiny model in place of the builtin one: the same names, arguments and results."""
    config = {
        "data": {"source": "builtin", "max_train_examples": 100},
        "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
        "student": {
            "seeds": [0], "embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "training": {"epochs": 1}
        },
    }  # fmt: skip
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    texts = [
        f"the {noun} was {word}"
        for noun in ("food", "room", "view", "staff", "bed", "bath")
        for word in ("fine", "bad")
    ]
    names = {
        "texts": 3 * texts,
        "labels": 18 * ["good", "bad"],
        "small": config | {"data": {}, "augment": {"words": 0, "spans": 0}},
    }
    blocks = python_of(document)
    assert blocks
    for code in blocks:
        assert len([line for line in code.splitlines() if line.strip()]) < 15
        code = code.replace("models/", f"{ROOT}/models/").replace(
            "PotstillClassifier()", "PotstillClassifier('plain', small)"
        )
        exec(compile(code, document.name, "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(notebook.parent)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names = {}
    for cell in cells_with_code(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_was_run_from_top_to_bottom_and_shows_no_path(notebook):
    cells = cells_with_code(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    shown = [output.get("text", "") or output["data"].get("text/plain", "") for output in outputs]
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|usr|work|Users)/", json.dumps(shown))
    assert notebook.stat().st_size < 200_000


def test_notebooks_links_lead_somewhere():
    for notebook in NOTEBOOKS:
        text = "".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"])
        targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
        assert not [target for target in targets if not (notebook.parent / target).exists()]


def cells_with_code(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_tables_show_the_committed_results():
    subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], check=True)
