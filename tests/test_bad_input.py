"""Hundreds of wrong commands, made from the settings' own types. Each is refused in one line and leaves no file.

They are wrong by construction: no test asks the tested code what it would accept.
"""

import dataclasses
import importlib
import os
import pickle
import shlex
import struct
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import hydra
import numpy as np
import pytest
from conftest import NEED_MORE, ROOT, command_line, compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from distancing.config.checks import LONG, SMALL
from distancing.sweep.__main__ import main as sweep_cli
from distancing.training.plan import Cycle, Phase
from distancing.training.settings import LARGE, LONGEST, Config

T = TypeVar("T")

# the settings, and what is wrong for each


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting. key: its name. type: its annotation. chosen: the choices of groups that it needs."""

    key: str
    type: Any
    chosen: tuple[str, ...] = ()


def of_class(cls: type, path: str, *chosen: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        yield Setting(f"{path}.{field.name}", hints[field.name], chosen)


def of_node(node: Any, path: str, *chosen: str) -> Iterator[Setting]:
    """Yield the settings of the component that a YAML describes, and of the components within it."""
    module, _, name = node["_target_"].rpartition(".")
    inner = {key for key, value in node.items() if isinstance(value, dict) and "_target_" in value}
    for setting in of_class(getattr(importlib.import_module(module), name), path, *chosen):
        if setting.key.rpartition(".")[2] not in inner:
            yield setting
    for key in inner:
        yield from of_node(node[key], f"{path}.{key}", *chosen)


def all_settings() -> Iterator[Setting]:
    from omegaconf import OmegaConf

    hints = typing.get_type_hints(Config, include_extras=True)
    groups = {"dataset", "model", "optimizer", "scheduler", "penalty", "phases", "analysis"}
    for field in dataclasses.fields(Config):
        if field.name not in groups | {"hash"}:
            yield Setting(field.name, hints[field.name])
    for group in sorted(groups):
        for choice in sorted({path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - NEED_MORE):
            chosen = f"{group}=[{choice}]" if group == "analysis" else f"{group}={choice}"
            node = OmegaConf.to_container(compose(chosen, "epochs=100"))[group]
            if group == "phases":
                for name, phase in node.items():
                    if "phases" in phase:
                        yield Setting(f"phases.{name}.times", typing.get_type_hints(Cycle)["times"], (chosen,))
                        for inner in phase["phases"]:
                            yield from of_class(Phase, f"phases.{name}.phases.{inner}", chosen)
                    else:
                        yield from of_class(Phase, f"phases.{name}", chosen)
            elif group == "analysis":
                for name, each in node.items():
                    yield from of_node(each, f"analysis.{name}", chosen)
            elif node is not None:
                yield from of_node(node, group, chosen)


def quoted(text: str) -> str:
    return f"'{text}'"


# text without a meaning in Hydra's grammar, once it is quoted; with what breaks lines and terminals
ODD = st.text(
    st.sampled_from("aZ09 _-.:,=/|#%&*()[]{}<>?!@^~\t\n\r\x07\x1b\x7f\u202e\u2028\u200bäθ漢😀\ud800"),
    min_size=1,
    max_size=40,
)
WORDS = st.sampled_from(
    ["abc", "None", "1,5", "1_000", "٣", "0x10", "true ", "½", "一", ".nan", "NaN", "--1", "x" * 300]
)
TEXT = st.one_of(WORDS, ODD.map(lambda text: f"x{text}"))
HUGE = st.sampled_from([10**30, -(10**30), 2**63, 2**64, 10**12, 10**400, LONG + 1, -LONG - 1])


def parts(annotation: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield the plain types that an annotation allows, each with its bounds."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        inner, *bounds = typing.get_args(annotation)
        for kind, more in parts(inner):
            yield kind, (*more, *bounds)
    elif origin in (typing.Union, types.UnionType):
        for each in typing.get_args(annotation):
            yield from parts(each)
    else:
        yield annotation, ()


def bad(setting: Setting) -> SearchStrategy[str]:
    """Return a strategy for typed values that are wrong for this setting."""
    allowed = dict(parts(setting.type))
    plain = {typing.get_origin(kind) or kind for kind in allowed}
    found = []
    if bool not in plain:
        found += [st.sampled_from(["true", "false"])]
    if types.NoneType not in plain:
        found += [st.just("null")]
    if list not in plain:
        found += [st.sampled_from(["[]", "[1,2]", "[null]", "[[1],{a: 1}]"])]
    if dict not in plain:
        found += [st.sampled_from(["{}", "{a: 1}", "{_target_: os.abort}", "{1: {2: 3}}"])]
    if str not in plain:  # a literal's words are none of these
        found += [TEXT.map(quoted), st.just("''"), st.just("'???'")]
    if not plain & {int, float}:
        found += [st.integers(-9, 9).map(str), st.sampled_from(["1.5", "nan", "inf", "-inf", "1e400"]), HUGE.map(str)]
    for kind, bounds in allowed.items():
        if kind in (int, float):
            found += [numbers(kind, bounds)]
    if str in plain:
        special = "/\0" if setting.key == "name" else ""
        letters = st.sampled_from("\t\n\r\x07\x1b\x7f\u202e\u2028\u200b\ud800" + special.replace("\0", " :θ·"[:2]))
        found += [st.just("''"), st.tuples(TEXT, letters).map("".join).map(quoted)]
        if setting.key == "name":
            found += [st.integers(101, 5000).map(lambda n: "x" * n)]
    return st.one_of(found)


def numbers(kind: type, bounds: tuple[Any, ...]) -> SearchStrategy[str]:
    """Return a strategy for numbers of another kind, or out of bounds."""
    found: list[SearchStrategy[Any]] = [HUGE, st.sampled_from(["nan", "NAN", "inf", "-inf", "1e400", "-1e999"])]
    if kind is int:
        found += [
            st.floats(-1e6, 1e6).filter(lambda x: x != round(x)).map(repr),
            st.sampled_from(["1.0", "0.0", "1e3"]),
        ]
    else:
        found += [st.sampled_from([LARGE * 1.1, -LARGE * 10, 1e300, SMALL / 10, 5e-324]).map(repr)]
    for bound in bounds:
        low, high = (getattr(bound, name, None) for name in ("ge", "le"))
        above, below = (getattr(bound, name, None) for name in ("gt", "lt"))
        if low is not None or above is not None:
            least = low if low is not None else above
            found += [st.integers(1, 10**9).map(lambda n, least=least: least - n)]
            found += [st.just(above)] if above is not None else []
        if high is not None or below is not None:
            most = high if high is not None else below
            found += [st.integers(1, 10**9).map(lambda n, most=most: most + n)]
            found += [st.just(below)] if below is not None else []
    return st.one_of(found).map(str)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python train.py ARGUMENTS` in an empty folder must be refused as it should be; the line.

    Hydra composes everything twice, at first only to look for a hydra.mode: here where a sweep's file can have one.
    """
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        kind = type(GlobalHydra.instance().hydra)
    here, get_mode = tmp_path / "here", kind.get_mode
    here.mkdir()
    monkeypatch.chdir(here)

    def check(*arguments: str, say: tuple[str, ...] = ()) -> str:
        capfd.readouterr()
        with patch.object(kind, "get_mode", get_mode if "+sweep=mine" in arguments else lambda *_, **__: None):
            code = command_line(*arguments)
        said = capfd.readouterr()
        assert code == 2, said.err
        lines = said.err.split("\n")
        assert lines[1:] == [""], said.err
        line = lines[0]
        assert line.startswith("error: ")
        assert line.isprintable()
        assert len(line) < 2000
        assert "Traceback" not in line + said.out
        assert not say or any(each in line for each in say), line
        assert not list(here.iterdir())
        return line

    return check


def different(n: int, examples: SearchStrategy[T], check: Callable[[T], object]) -> None:
    """Return the settings for so many examples. Older versions of hypothesis repeat themselves more."""
    seen: set[T] = set()

    @settings(
        max_examples=5 * n, derandomize=True, database=None, deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(examples)
    def draw(example: T) -> None:
        if example not in seen and len(seen) < n:
            seen.add(example)
            check(example)

    draw()
    assert len(seen) == n


SETTINGS = list(all_settings())


def test_every_setting_is_here() -> None:
    """The settings of every group, phase, kernel and distance are found. Their number grows with each new one."""
    keys = {setting.key for setting in SETTINGS}
    assert {"seed", "penalty.kernel", "penalty.distance.parameters", "phases.cycle.phases.escape.jump"} - keys == {
        "penalty.kernel"  # a component, whose own settings these are
    }
    assert len(SETTINGS) > 200


@pytest.mark.slow
def test_wrong_values(refused: Callable[..., str]) -> None:
    def check(drawn: tuple[Setting, str]) -> None:
        setting, value = drawn
        refused(*setting.chosen, f"{setting.key}={value}", say=(setting.key, setting.key.rpartition(".")[2]))

    values = st.sampled_from(SETTINGS).flatmap(lambda setting: st.tuples(st.just(setting), bad(setting)))
    different(150, values, check)


NAMES = st.from_regex(r"zz[a-z_]{0,20}", fullmatch=True)
COMPONENTS = ("dataset", "model", "optimizer", "scheduler", "penalty", "penalty.distance", "penalty.kernel")
UNKNOWN = st.one_of(
    st.tuples(st.sampled_from(COMPONENTS), NAMES).map(lambda each: f"{each[0]}.{each[1]}=1"),
    st.tuples(st.sampled_from(("descend", "escape")), NAMES).map(lambda each: f"phases.{each[0]}.{each[1]}=true"),
    NAMES.map(lambda name: f"{name}=1"),
    NAMES.map(lambda name: f"+{name}={{a: 1}}"),
    NAMES.map(lambda name: f"model={name}"),
    NAMES.map(lambda name: f"+sweep={name}"),
    NAMES.map(lambda name: f"+analysis={name}"),
    NAMES.map(lambda name: f"seed=${{{name}}}"),
    NAMES.map(lambda name: f"dataset.root=${{oc.env:{name.upper()}}}"),
    st.tuples(st.sampled_from(COMPONENTS), NAMES).map(lambda each: f"{each[0]}._target_=distancing.{each[1]}.X"),
    st.sampled_from(COMPONENTS).map(lambda group: f"{group}._target_=os.system"),
)
MISSING = ("model._target_=distancing.models.Model", "dataset._target_=distancing.data.datasets.Torchvision",
           "penalty.kernel._target_=distancing.hills.kernels.Kernel", "optimizer._target_=distancing..X", "~optimizer",
           "~phases", "~penalty.kernel", "~seed", "~dataset._target_", "seed=???", "seed=${seed}",)  # fmt: skip


@pytest.mark.slow
def test_unknown_and_missing_settings(refused: Callable[..., str]) -> None:
    different(40, UNKNOWN, refused)
    for override in MISSING:
        refused(override)


@pytest.mark.slow
def test_settings_that_cannot_be_together(refused: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    count = st.integers(1, 1000)
    of_digits = "dataset.train_images={} dataset.folds=null"
    impossible = st.one_of(
        st.tuples(count, count).map(
            lambda n: f"epochs={sum(n) + 1} phases=distancing phases.descend.epochs={n[0]} phases.escape.epochs={n[1]}"
        ),
        count.map(lambda n: f"phases=cycles phases.cycle.times={n} epochs={2 * n}"),
        st.integers(LONGEST, 10**15).map(lambda n: f"phases=cycles phases.cycle.times={min(n, LONG)} epochs={n}"),
        st.integers(51, 300).map(lambda n: f"+phases.{'x' * n}.checkpoint=true"),
        st.sampled_from(["+phases.final.epochs=3", "+phases.a+b.epochs=3", "+phases.ä/ö.penalty=true",
                         "phases=cycles phases.cycle.phases=null",
                         "phases=cycles +phases.settle-1.epochs=1"]),
        count.map(lambda n: f"phases.escape.patience={n}"),
        st.tuples(st.integers(2, 100), count).map(lambda n: f"dataset.folds={n[0]} dataset.fold={n[0] + n[1] - 1}"),
        st.integers(160, LONG).map(lambda n: f"dataset.folds={n} dataset.fold=0"),  # of 9 images
        st.floats(1e-9, 0.006).map(lambda x: f"dataset.validation_fraction={x!r}"),
        st.floats(0.994, 1, exclude_max=True).map(lambda x: f"dataset.validation_fraction={x!r}"),
        st.integers(1438, LONG).map(lambda n: of_digits.format(n)),
        st.integers(1, 9).map(lambda n: of_digits.format(n)),
        st.integers(1438, LONG).map(lambda n: f"batch_size={n}"),
        count.map(lambda n: f"threads={n + (os.cpu_count() or 1)}"),
        st.floats(0.91, 1, exclude_max=True).map(lambda x: f"label_smoothing={x!r}"),
        st.integers(1, 1000).filter(lambda n: n <= 2 or (n - 2) % 6).map(lambda n: f"model.depth={n}"),
        st.floats(1e-3, 10).map(lambda x: f"penalty.temperature={x!r}"),
        st.just("penalty=elementwise penalty.growth=1"),
        st.just("optimizer=nesterov optimizer.momentum=0"),
        st.sampled_from(["cifar10", "mnist", "fashion_mnist", "cifar100"]).flatmap(lambda name: st.sampled_from(
            [str(file), str(tmp_path), "/proc/self", "/root/../nowhere", "x" * 300, "/" + "y/" * 2000, "ä漢"]
        ).map(lambda root: f"dataset={name} dataset.download=false dataset.root='{root}'")),
        st.sampled_from([str(file), "/proc/nowhere", "x" * 300, "y/" * 3000]).map(lambda runs: f"runs={runs} epochs=7"),
    )  # fmt: skip
    different(50, impossible, lambda overrides: refused(*overrides.split()))


# arguments that Hydra's grammar has no place for

LETTERS = st.text("abz019_.-", min_size=1, max_size=12)
FORBIDDEN = st.sampled_from("=üß漢☃€;&!#<>^~")


def test_a_letter_that_has_no_place(refused: Callable[..., str]) -> None:
    """The error names the letter and its place, and offers a quoted form with the intended value."""

    def check(drawn: tuple[str, str, str]) -> None:
        before, letter, after = drawn
        line = refused(f"runs={before}{letter}{after}")
        assert f"{letter!r} (character {6 + len(before)}) cannot stand there" in line
        (typed,) = shlex.split(line.partition("; write ")[2])
        assert OverridesParser.create().parse_override(typed).value() == before + letter + after

    different(40, st.tuples(LETTERS, FORBIDDEN, LETTERS), check)


INCOMPLETE = st.one_of(
    st.tuples(LETTERS, LETTERS).map(lambda x: (f"runs={x[0]},{x[1]},", f"runs={x[0]},{x[1]}")),
    st.tuples(LETTERS, LETTERS).map(lambda x: (f"runs={x[0]},,{x[1]}", f"runs={x[0]},{x[1]}")),
    st.tuples(LETTERS, LETTERS).map(lambda x: (f"runs=[{x[0]},{x[1]}", f"runs=[{x[0]},{x[1]}]")),
    LETTERS.map(lambda x: (f"runs={{a:{x}", f"runs={{a:{x}}}")),
    LETTERS.map(lambda x: (f'runs="{x}', f'runs="{x}"')),
    LETTERS.map(lambda x: (f"runs='{x}", f"runs='{x}'")),
)


def test_a_value_that_is_incomplete(refused: Callable[..., str]) -> None:
    def check(drawn: tuple[str, str]) -> None:
        wrong, right = drawn
        assert refused(wrong).endswith(f"; write {shlex.quote(right)}")

    different(20, INCOMPLETE, check)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("=3", "'=3' is not an override: '' is not the name of a setting"),
        ("seed", "'seed' is not an override: write KEY=VALUE, or ~KEY to delete a setting"),
        ("se ed=3", "'se ed' is not the name of a setting (' ' cannot be in one)"),
        ("größe=3", "'größe' is not the name of a setting ('ö' cannot be in one)"),
        ("seed==3", "'=' (character 6) cannot stand there"),
        ("runs=''a'", "cannot stand there; write"),
        ("seed,epochs=3", "',' cannot be in one"),
    ],
)
def test_an_argument_that_is_no_override(argument: str, said: str, refused: Callable[..., str]) -> None:
    assert said in refused(argument)


# sweeps

SWEEP_FILES = [
    "sweeper: {params: {seed: [0, 1}",
    "\tsweeper: 1",
    "- a\n- b",
    "sweeper: {params: [1, 2]}",
    "sweeper: {params: {seed: [0, abc]}}",
    "sweeper: {params: {seed: [0, -1]}}",
    "sweeper: {params: {seed: 'interval(0, 1)'}}",
    "sweeper: {params: {optimizer.lr: [0.1, .nan]}}",
    "sweeper: {params: {optimizer.lr: [0.1, 1.0e+39]}}",
    "sweeper: {params: {optimizer.lr: {a: 1}}}",
    "sweeper: {params: {zzz: [0, 1]}}",
    "sweeper: {params: {model: [resnet8, zzz]}}",
    "sweeper: {params: {'se ed': [0, 1]}}",
    "sweeper: {params: {seed: ['${zzz}', 1]}}",
    "sweeper: {params: {name: ['a\\nb', c]}}",
    "sweeper: {params: {seed: [0, 1]}, cases: [a, b]}",
    "sweeper: {params: {seed: [0, 1]}, cases: {a: 3}}",
    "sweeper: {params: {seed: [0, 1]}, exclude: {a: {zzz: 1}}}",
    "sweeper: {params: {seed: [0, 1]}, exclude: {a: {seed: [0, 1]}}}",
    "sweeper: {zzz: 1}",
    "sweeper: {_target_: os.abort}",
    "sweeper: 3",
    "zzz: 3",
    "launcher: {_target_: os.abort}",
    "sweeper: {params: {1: 2}}",
    "sweeper: {params: {hydra.sweep.dir: [a, b]}}",
    "sweeper: {params: {seed: !!python/object/apply:os.abort []}}",
    "sweeper: {params: {seed: [0, 1], model._target_: os.abort}}",
    b"\xff\xfe\x00",
    b"a: \x07\x1b",
    bytes(range(256)),
    b"[" * 2000,
]


@pytest.mark.parametrize("content", SWEEP_FILES)
def test_sweep_files(content: str | bytes, refused: Callable[..., str], tmp_path: Path) -> None:
    if isinstance(content, str):
        content = (content if content[0] in "\t-" else f"# @package hydra\nmode: MULTIRUN\n{content}\n").encode()
    (tmp_path / "conf/sweep").mkdir(parents=True)
    (tmp_path / "conf/sweep/mine.yaml").write_bytes(content)
    refused("+sweep=mine", f"--config-dir={tmp_path}/conf")


# images


def idx(array: Any) -> bytes:
    """Return a file in MNIST's format: 8 for bytes, the number of dimensions, each of them, and the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(
    root: Path, shape: tuple[int, ...] = (28, 28), n: int = 60_000, labels: int | None = None, top: int = 10
) -> Path:
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for part, images in (("train", n), ("t10k", 10_000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((images, *shape), np.uint8)))
        digits = np.arange(images if labels is None else labels) % top
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(digits.astype(np.uint8)))
    return raw


@pytest.mark.slow
def test_wrong_files_of_mnist(refused: Callable[..., str], tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "the checksum of its images": {},
        "images (60000, 27, 28, 1)": {"shape": (27, 28)},
        "images (59999, 28, 28, 1)": {"n": 59_999},
        "labels (100,)": {"labels": 100},
        "labels from 0 to 199 for 10 classes": {"top": 200},
    }
    for i, (said, made) in enumerate(cases.items()):
        mnist(tmp_path / str(i), **made)
        line = refused("dataset=mnist", f"dataset.root={tmp_path}/{i}", "dataset.download=false")
        assert f"dataset.root={tmp_path}/{i}: can't read MNIST: " in line
        assert said in line
    raw = mnist(tmp_path / "cut")
    for keep in (5000, 10, 3, 0):
        for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
            whole = (raw / name).read_bytes()
            (raw / name).write_bytes(whole[:keep])
            line = refused("dataset=mnist", f"dataset.root={tmp_path}/cut", "dataset.download=false")
            assert "can't read MNIST: " in line
            (raw / name).write_bytes(whole)


def test_a_file_of_cifar_is_not_unpickled_before_its_checksum(refused: Callable[..., str], tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            import os

            return os.mkdir, (str(tmp_path / "executed"),)

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]
    for content in (pickle.dumps(Hostile()), pickle.dumps({"data": np.zeros((10, 3072)), "labels": [0]}), b""):
        for name in names:
            (folder / name).write_bytes(content)
        line = refused("dataset=cifar10", f"dataset.root={tmp_path}", "dataset.download=false")
        assert f"dataset.root={tmp_path}: can't read CIFAR10: Dataset not found or corrupted" in line
    assert not (tmp_path / "executed").exists()


# lists of a sweep

LISTS = ["{", "[]", "3", '{"run": 3, "overrides": [], "epochs": 1}', '{"run": "../a", "overrides": 3, "epochs": 1}',
         '{"run": "../../a", "overrides": [], "epochs": "x"}', '{"run": "../../a", "overrides": [], "epochs": 1e999}',
         '{"run": "../../a"}', '{"run": "/etc", "overrides": [], "epochs": 1}', "[" * 100_000, "\x00",
         '{"run": "../../../../../etc", "overrides": [], "epochs": 1}',
         '{"run": "\\u0000", "overrides": [], "epochs": 1}']  # fmt: skip


@pytest.fixture
def refused_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:  # fmt: skip
    """`distancing sweep COMMAND` for a sweep of these files must be refused in a line that begins so."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/sweeps/it")
    folder.mkdir(parents=True)

    def check(command: str, begins: str, runs: str = "", launcher: str = '{"kind": "local", "settings": {}}') -> None:
        (folder / "runs.jsonl").write_text(runs)
        (folder / "launcher.json").write_text(launcher)
        assert sweep_cli([command, "it"]) == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith(f"error: {folder}/{begins}")
        assert len(list(folder.iterdir())) == 2
        assert not Path("runs/a").exists()

    return check


@pytest.mark.parametrize("line", LISTS, ids=range(len(LISTS)))
def test_a_wrong_list_of_runs(line: str, refused_sweep: Callable[..., None]) -> None:
    for command in ("status", "retry", "cancel"):
        runs = '{"run": "../../a", "overrides": [], "epochs": 1}\n' + line + "\n"
        refused_sweep(command, "runs.jsonl, line 2", runs=runs)


LAUNCHERS = ["{", "[]", "3", '{"kind": "zzz", "settings": {}}', '{"kind": "local"}', '{"kind": [], "settings": {}}',
             '{"kind": "local", "settings": {"processes": 0}}', '{"kind": "local", "settings": {"zzz": 0}}',
             '{"kind": "local", "settings": 3}', "[" * 100_000,
             '{"kind": "slurm", "settings": {"setup": 3}}']  # fmt: skip


@pytest.mark.parametrize("text", LAUNCHERS, ids=range(len(LAUNCHERS)))
def test_a_wrong_launcher(text: str, refused_sweep: Callable[..., None]) -> None:
    refused_sweep("retry", "launcher.json", launcher=text)
