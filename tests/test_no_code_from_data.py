"""Nothing that is read from a file is ever executed: the source has no call that could."""

import ast
from pathlib import Path

import pytest

from potstill.export.web.node import CHECK_FILE
from potstill.teacher.backbone.sources import Source

SOURCE = Path(__file__).parents[1] / "src" / "potstill"
FILES = sorted(SOURCE.rglob("*.py"))

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "imp", "code"}
MODULES |= {"subprocess", "pty"}
"""They write what is a program when it is read, or run programs."""
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    *("torch.load", "torch.save", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"),
    *("runpy.run_path", "subprocess.run", "subprocess.Popen", "os.system", "os.popen", "os.posix_spawn", "os.execv"),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "shutil.unpack_archive"),
}
FLAGS = {"allow_pickle": True, "trust_remote_code": True, "weights_only": False, "shell": True}
METHODS = {"extractall"}
"""Archives' names may lead out of the directory."""
PROGRAMS = {"export/web/node.py": ["subprocess", "subprocess.run"]}
"""The one module that runs a program, Node, on a file of Potstill's own."""

LOADS = "kind.from_pretrained"
OPTIONS = "source.options()"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.AST):
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield module
            case ast.Call(func=function, keywords=keywords):
                name = dotted(function)
                yield from [name] * (name in NAMES | CALLS or name.rpartition(".")[2] in METHODS)
                yield from flags((keyword.arg, keyword.value) for keyword in keywords)
            case ast.Dict(keys=keys, values=values):
                yield from flags(zip((getattr(key, "value", None) for key in keys), values, strict=True))


def flags(pairs):
    for name, value in pairs:
        if name in FLAGS and not is_constant(value, not FLAGS[name]):
            yield f"{name}={ast.unparse(value)}"


def trusting(tree: ast.AST):
    """Find calls that load a model without refusing the code beside it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func).endswith((".from_pretrained", ".from_config")):
            said = any(k.arg == "trust_remote_code" and is_constant(k.value, False) for k in node.keywords)
            # `Source.options` is the one place that says it for all.
            if not said and not any(k.arg is None and ast.unparse(k.value) == OPTIONS for k in node.keywords):
                yield ast.unparse(node)


def is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_runs_what_it_reads(file):
    expected = PROGRAMS.get(file.relative_to(SOURCE).as_posix(), [])
    assert sorted(offences(ast.parse(file.read_text(encoding="utf-8")))) == expected


def test_the_only_program_that_is_run_has_fixed_arguments_and_a_time_limit():
    tree = ast.parse((SOURCE / "export" / "web" / "node.py").read_text(encoding="utf-8"))
    calls = [one for one in ast.walk(tree) if isinstance(one, ast.Call)]
    (call,) = (one for one in calls if dotted(one.func) == "subprocess.run")
    assert ast.unparse(call.args[0]) == "[str(Path(node).absolute()), CHECK_FILE]"
    assert {"timeout", "cwd", "stdin"} <= {keyword.arg for keyword in call.keywords}
    assert CHECK_FILE == "check.js"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_model_is_loaded_without_its_code(file):
    assert list(trusting(ast.parse(file.read_text(encoding="utf-8")))) == []


def test_loading_with_code_would_be_found():
    assert list(trusting(ast.parse("AutoModel.from_pretrained(place, **options)")))
    assert list(trusting(ast.parse("kind.from_config(config)")))
    assert Source("place", offline=True).options()["trust_remote_code"] is False


@pytest.mark.parametrize(
    "program",
    [
        *("import subprocess", "from subprocess import run", "os.system(text)"),
        *("import pickle", "from pickle import loads", "import joblib.memory", "eval(text)", "torch.load(path)"),
        *("yaml.load(text)", "numpy.load(path, allow_pickle=True)", "numpy.load(path, allow_pickle=wanted)"),
        *("options = {'trust_remote_code': flag}", "archive.extractall(path)", "torch.load(p, weights_only=False)"),
        "build(name, trust_remote_code=True)",
    ],
)
def test_dangerous_calls_would_be_found(program):
    assert list(offences(ast.parse(program)))


def test_safe_calls_are_not_reported():
    program = "yaml.safe_load(text); f(trust_remote_code=False, allow_pickle=False); re.compile('x')"
    assert list(offences(ast.parse(program))) == []


def test_backbones_are_read_from_safetensors_only():
    """Weights of older checkpoints are pickles; `transformers` would read them."""
    tree = ast.parse((SOURCE / "teacher" / "backbone" / "sources.py").read_text(encoding="utf-8"))
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func) == LOADS]
    assert loads
    for call in loads:
        assert any(k.arg == "use_safetensors" and is_constant(k.value, True) for k in call.keywords)
