"""The documents: their links lead somewhere, their code runs, their numbers are those of the committed results."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


def test_readme_code_runs(tmp_path, monkeypatch, tiny_backbone):
    """With a tiny model in place of the builtin one: the same names, arguments and results."""
    use, code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    config = {
        "data": {"source": "builtin", "max_train_examples": 100},
        "teacher": {"backbone": str(tiny_backbone), "training": {"epochs": 1}},
        "student": {"embedding_size": 8, "hidden_size": 8, "vocab_size": 300, "training": {"epochs": 1}},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    texts = [
        f"the {noun} was {word}"
        for noun in ("food", "room", "view", "staff", "bed", "bath")
        for word in ("fine", "bad")
    ]
    given = {
        "texts": 3 * texts,
        "labels": 18 * ["good", "bad"],
        "small": config | {"data": {}, "augment": {"words": 0, "spans": 0}},
    }
    use = use.replace("models/", f"{ROOT}/models/").replace(
        "PotstillClassifier()", "PotstillClassifier('plain', small)"
    )
    exec(compile(use, "README.md", "exec"), given)


def test_tables_show_the_committed_results():
    subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], check=True)
