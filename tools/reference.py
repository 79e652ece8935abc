"""The tables of the documentation's reference, made from the code and the configs.

A page says `<!-- reference: NAME -->` where the part NAME of PARTS belongs. Descriptions come from docstrings, in which
a line `name (unit): text` describes a field, an argument or a value; the unit may be missing.
"""

import argparse
import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser  # Hydra has no public way to its parser
from pydantic import TypeAdapter

from distancing.__main__ import MODULES
from distancing.config.composition import CHOICES
from distancing.config.project import CONF
from distancing.ensemble import compare, side_by_side
from distancing.ensemble.row import Row, read_csv
from distancing.errors import EXIT_CODES
from distancing.hills import distances, kernels
from distancing.runs import ensemble as ensemble_result
from distancing.runs import result
from distancing.runs.flat import flat
from distancing.sweep.cost import Devices
from distancing.sweep.grid import Grid
from distancing.sweep.local import Local
from distancing.sweep.slurm import Slurm
from distancing.training.metrics import DESCRIPTIONS
from distancing.training.plan import Cycle, Phase
from distancing.training.settings import Config, Evaluation

FIELD = re.compile(r"^([A-Za-z_]\w*)(?: \(([^)]*)\))?: (.*)$")
LAUNCHERS: dict[str, type] = {"local": Local, "slurm": Slurm, "cost": Devices}


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of one name in a docstring. unit: "" if there is none."""

    unit: str
    text: str


def descriptions(documented: Any) -> dict[str, Description]:
    """Return the descriptions in the docstring of a class or function, and in those of the base classes."""
    fields: dict[str, Description] = {}
    for owner in reversed(documented.__mro__) if isinstance(documented, type) else [documented]:
        name = None
        for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
            if match := FIELD.match(line):
                name, unit, text = match.groups()
                fields[name] = Description(unit or "", text)
            elif name and line.startswith(" "):
                fields[name] = Description(fields[name].unit, f"{fields[name].text} {line.strip()}")
            else:
                name = None
    return fields


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring, in one line."""
    paragraph = inspect.cleandoc(documented.__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def allowed(hint: Any) -> str:
    """Return in words which values a type allows."""
    return _allowed(TypeAdapter(hint).json_schema())


def _allowed(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        size = schema.get("minItems")
        count = f"{size} or more " if size and size != schema.get("maxItems") else f"{size} " if size else ""
        return f"list of {count}{_allowed(schema.get('items', {}))}"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`",
             "object": "named values"}  # fmt: skip
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:,}" for key, sign in limits.items() if key in schema]
    return " ".join([words.get(schema.get("type", ""), "any value"), ", ".join(bounds)]).strip()


def fields(cls: type, prefix: str, defaults: Mapping[str, Any], leave_out: Sequence[str] = ()) -> str:
    """Return the table of a class's settings.

    prefix: the prefix of their names. defaults: from the YAML; the class's own default stands for a missing one.
    """
    hints, text = typing.get_type_hints(cls, include_extras=True), descriptions(cls)
    rows = []
    for field in dataclasses.fields(cls):
        if field.name in leave_out:
            continue
        default = defaults.get(field.name, _default(field))
        described = text[field.name]
        value = "" if default in (dataclasses.MISSING, "???") else f"`{_yaml(default)}`"
        meaning = _sentence(described.text)
        rows.append([f"`{prefix}{field.name}`", allowed(hints[field.name]), value, described.unit, meaning])
    return table(("setting", "allowed values", "default", "unit", "meaning"), rows) if rows else "No settings.\n"


def _default(field: "dataclasses.Field[Any]") -> Any:
    default = getattr(field.default, "default", field.default)  # pydantic's Field has it inside
    factory = getattr(field.default, "default_factory", None) or field.default_factory
    return factory() if default is dataclasses.MISSING and callable(factory) else default


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def load(group: str, name: str) -> dict[str, Any]:
    """Return a YAML file of the configs with the files of its group in its `defaults` merged in."""
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        if isinstance(base, str) and base != "_self_":
            merged |= load(group, base)
    return merged | content


def choices(group: str) -> list[str]:
    """Return the names of the group's YAML files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def comment(group: str, name: str) -> str:
    """Return the comment at the beginning of a YAML file, without Hydra's line."""
    lines = []
    for line in (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _class(target: str) -> type:
    module, _, name = target.rpartition(".")
    cls: type = getattr(importlib.import_module(module), name)
    return cls


def _choices_table(group: str) -> str:
    rows = []
    for name in choices(group):
        own = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
        own.pop("defaults", None)
        values = flat({key: value for key, value in own.items() if key != "_target_"})
        settings = ", ".join(f"`{key}={_yaml(value)}`" for key, value in values.items() if not key.endswith("_target_"))
        rows.append([f"`{group}={name}`", comment(group, name), settings])
    return table(("choice", "what it is", "what it sets"), rows)


def _files(group: str, prefix: str) -> str:
    """Return each YAML file of a group, folded, under its comment."""
    parts = []
    for name in choices(group):
        text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
        body = "\n".join(f"    {line}" for line in text.splitlines())
        parts.append(f'**`{prefix}{name}`** {comment(group, name)}\n\n??? note "{group}/{name}.yaml"\n\n')
        parts.append(f"    ```yaml\n{body}\n    ```\n\n")
    return "".join(parts)


def settings() -> str:
    """Return all settings of a run, group by group."""
    top = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8")) | load("speed", "default")
    top["name"] = "from the choices"
    parts = ["## Top level\n\n", fields(Config, "", top, leave_out=[*CHOICES, "evaluate", "hash"])]
    parts.append(f"\n## evaluate\n\n{summary(Evaluation)}\n\n{fields(Evaluation, 'evaluate.', top['evaluate'])}")
    for group in ("dataset", "model", "optimizer", "scheduler"):
        parts.append(f"\n## {group}\n\n{_choices_table(group)}")
        parts += _classes(group)
    parts += [_penalty(), _phases(), _analyses()]
    parts.append(f"\n## speed\n\n{_choices_table('speed')}")
    return "".join(parts)


def _classes(group: str) -> Iterator[str]:
    """Yield a section for each class of a group, with the settings that no class before it describes alike."""
    known: dict[type, set[tuple[str, str]]] = {}
    order = sorted(choices(group), key=lambda name: "defaults" in (CONF / group / f"{name}.yaml").read_text())
    for values in (load(group, name) for name in order):
        cls = _class(values["_target_"])
        if cls in known:
            continue
        if not dataclasses.is_dataclass(cls):  # a function of another library's networks
            known[cls] = set()
            rows = [[f"`{group}.{key}`", f"`{value}`"] for key, value in values.items() if key != "_target_"]
            yield f"\n### {group}: {cls.__name__}\n\n{summary(cls)}\n\n{table(('setting', 'default'), rows)}"
            continue
        own = {(field.name, str(values.get(field.name))) for field in dataclasses.fields(cls)}
        before = set.union(*known.values()) if known else set()
        same = [name for name, value in own if (name, value) in before]
        known[cls] = own
        text = fields(cls, f"{group}.", values, leave_out=same) if set(same) != {name for name, _ in own} else ""
        more = "It has the settings above that belong to its base class, and these.\n\n" if same and text else ""
        yield f"\n### {group}: {cls.__name__}\n\n{summary(cls)}\n\n{more}{text}"


def _penalty() -> str:
    values = load("penalty", "gaussian")
    cls = _class(values["_target_"])
    parts = [f"\n## penalty\n\n{_choices_table('penalty')}\n### penalty: {cls.__name__}\n\n{summary(cls)}\n\n"]
    parts.append(fields(cls, "penalty.", values, leave_out=("distance", "kernel")))
    for key, module, base in (("distance", distances, distances.Distance), ("kernel", kernels, kernels.Kernel)):
        parts.append(f"\n### penalty.{key}\n\n")
        common = [field.name for field in dataclasses.fields(base)]
        if common:
            parts.append(f"All of them have\n\n{fields(base, f'penalty.{key}.', {})}\n")
        for name, component in inspect.getmembers(module, inspect.isclass):
            if issubclass(component, base) and component is not base and component.__module__ == module.__name__:
                parts.append(f"`penalty.{key}._target_={module.__name__}.{name}`\n:   {summary(component)}\n\n")
                if len(dataclasses.fields(component)) > len(common):
                    own = fields(component, f"penalty.{key}.", {}, leave_out=common)
                    parts.append("".join(f"    {line}\n" for line in own.splitlines()) + "\n")
    return "".join(parts)


def _phases() -> str:
    return (
        f"\n## phases\n\n{_files('phases', 'phases=')}\n### phases: Phase\n\n{summary(Phase)}\n\n"
        f"{fields(Phase, 'phases.NAME.', {})}\n### phases: Cycle\n\n{summary(Cycle)}\n\n"
        f"{fields(Cycle, 'phases.NAME.', {}, leave_out=('phases',))}\n"
        "`phases.NAME.phases` holds the phases that are repeated, by name.\n"
    )


def _analyses() -> str:
    parts = ["\n## analysis\n\nSeveral can be named: `'analysis=[barrier,valley]'`. `analysis=[]` is the default.\n"]
    for name in choices("analysis"):
        cls = _class(load("analysis", name)[name]["_target_"])
        parts.append(f"\n### analysis: {name}\n\n{summary(cls)}\n\n{fields(cls, f'analysis.{name}.', {})}")
    return "".join(parts)


def launchers() -> str:
    """Return the settings of sweeps and launchers."""
    parts = [f"## The sweeper\n\n{summary(Grid)}\n\n{fields(Grid, 'hydra.sweeper.', load('hydra/sweeper', 'grid'))}"]
    for name, cls in LAUNCHERS.items():
        values = load("hydra/launcher", name)
        parts.append(f"\n## hydra/launcher={name}\n\n{summary(cls)}\n\n{fields(cls, 'hydra.launcher.', values)}")
    others = [name for name in choices("hydra/launcher") if name not in LAUNCHERS]
    parts += [f"\n## hydra/launcher={name}\n\n{comment('hydra/launcher', name)}\n" for name in others]
    return "".join(parts)


def _described(owner: Any) -> Iterator[list[str]]:
    for name, description in descriptions(owner).items():
        yield [f"`{name}`", description.unit, _sentence(description.text)]


def result_fields() -> str:
    """Return the fields of result.json."""
    parts = []
    header = ("field", "unit", "meaning")
    titles = {
        result.Result: "", result.CheckpointInfo: "`checkpoints[]` and `final`", result.Divergence: "`diverged`",
        result.GradientCheck: "`gradient_check`", ensemble_result.EnsembleResult: "`ensemble`",
        ensemble_result.SplitResult: "`ensemble.splits.SPLIT`",
        ensemble_result.Scores: "The scores of a member, an ensemble or the average of the parameters",
        ensemble_result.OodResult: "`ensemble.ood.SET`",
        ensemble_result.Detection: "`ensemble.ood.SET.MEASURE`",
        ensemble_result.CorruptionsResult: "`ensemble.corruptions`",
        ensemble_result.CorruptedScores: "The scores of a severity or a corruption",
    }  # fmt: skip
    for cls, title in titles.items():
        rows = list(_described(cls))
        if not title:
            rows.append(["`checksum`", "", "A checksum of all other fields, against damage."])
        parts.append((f"\n### {title}\n\n" if title else "") + table(header, rows))
    return "".join(parts)


def ensemble_rows() -> str:
    """Return the columns of the table that `distancing ensemble --compare` writes."""
    return table(("column", "unit", "meaning"), _described(Row))


def analysis_values() -> str:
    """Return the values of each analysis in result.json."""
    parts = []
    for name in choices("analysis"):
        cls: Any = _class(load("analysis", name)[name]["_target_"])
        rows = _named(cls.VALUES)
        parts.append(f"### `analysis.{name}`\n\n{table(('value', 'unit', 'meaning'), rows)}\n")
    return "".join(parts)


def metrics_columns() -> str:
    """Return the columns of metrics.csv."""
    return table(("column", "unit", "meaning"), _named(DESCRIPTIONS))


def _named(values: Mapping[str, tuple[str, str]]) -> Iterator[list[str]]:
    """Yield the rows of values that are described by their unit and a text. A key may hold several names."""
    for names, (unit, text) in values.items():
        yield [", ".join(f"`{name}`" for name in names.split(", ")), unit, _sentence(text)]


def rivals() -> str:
    """Return the comparison in docs/rivals.csv: the chosen trial of each kind, and all trials."""
    rows = read_csv(Path(__file__).parents[1] / "docs/rivals.csv")
    best, baseline = compare.chosen(rows), "phases=independent"
    chosen = side_by_side.markdown(side_by_side.comparison(best, baseline))
    return f"{chosen}\nAll trials:\n\n{side_by_side.markdown(side_by_side.trials(rows, best))}"


def exit_codes() -> str:
    """Return the exit codes."""
    return table(("exit code", "meaning"), [[f"`{code}`", text] for code, text in EXIT_CODES.items()])


def commands() -> str:
    """Return the arguments of every command."""
    parsers = {
        name: get_args_parser() if name == "train" else importlib.import_module(module).argument_parser()
        for name, module in MODULES.items()
    }
    return "\n".join(_command(f"distancing {name}", parser) for name, parser in parsers.items())


def _command(name: str, parser: argparse.ArgumentParser, level: int = 2) -> str:
    inner = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
    intro = "" if level > 2 or name == "distancing train" else f"{parser.description}\n\n"
    parts = [f"{'#' * level} {name}\n\n{intro}"]
    if inner:
        helps = {choice.dest: choice.help for choice in inner._choices_actions}
        for command, subparser in inner.choices.items():
            text = _command(f"{name} {command}", subparser, level + 1)
            title, _, rest = text.partition("\n\n")
            parts.append(f"{title}\n\n{_sentence(helps[command] or '')}\n\n{rest}\n")
        return "".join(parts)
    rows = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
            continue
        metavar = action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest)
        shown = ", ".join(action.option_strings) or str(metavar)
        if action.option_strings and action.nargs != 0:
            shown += f" {metavar}" if isinstance(action.metavar, str) else f" {str(metavar).upper()}"
            if action.choices:
                shown = f"{', '.join(action.option_strings)} {metavar}"
        text = str(action.help or "").partition("\n")[0].replace("%(default)s", str(action.default))
        rows.append([f"`{shown}`", _sentence(text)])
    return "".join([*parts, table(("argument", "meaning"), rows) if rows else "It takes no arguments.\n"])


def _sentence(text: str) -> str:
    """Return a text with a capital letter, unless it begins with a symbol or a name in code, and a full stop."""
    text = " ".join(text.split())
    begins_with_a_word = text[:2].isascii() and text[:2].isalpha()
    return (text[0].upper() + text[1:] if begins_with_a_word else text).rstrip(".") + "." if text else ""


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "experiments": lambda: _files("experiment", "experiment="),
    "sweeps": lambda: _files("sweep", "+sweep="),
    "launchers": launchers,
    "result": result_fields,
    "ensemble rows": ensemble_rows,
    "analyses": analysis_values,
    "metrics": metrics_columns,
    "rivals": rivals,
    "exit codes": exit_codes,
    "commands": commands,
}
MARKER = re.compile(r"^<!-- reference: ([\w ]+) -->$", re.MULTILINE)


def filled(markdown: str) -> str:
    """Return a page with every marker replaced by its part. Raise KeyError for an unknown part."""
    return MARKER.sub(lambda match: PARTS[match[1]](), markdown)


if __name__ == "__main__":
    for path in sorted((Path(__file__).parents[1] / "docs/reference").glob("*.md")):
        print(filled(path.read_text(encoding="utf-8")))
