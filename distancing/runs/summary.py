"""A run's result as a table for people."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

LANDSCAPE_VALUES = 8  # of each analysis: its first ones that are not of a single place or pair


def summary(result: dict[str, Any], directory: str) -> RenderableType:
    """Each stored checkpoint and the final network, their average, and the network at the mean of their parameters:
    loss and accuracy; the distances between them; and what the analyses found in all."""
    places = [*result["checkpoints"], *([result["final"]] if result["final"] else [])]
    splits = list(places[0]["metrics"]) if places else []
    metrics = Table(title=f"{result['name']}: {result['status']}", title_justify="left", title_style="bold")
    metrics.add_column("checkpoint")
    metrics.add_column("phase")
    metrics.add_column("epoch", justify="right")
    distances = Table(title="distances ‖θ − θ_c‖", title_justify="left")
    distances.add_column("")
    for split in splits:
        metrics.add_column(f"{split} loss", justify="right")
        metrics.add_column(f"{split} acc.", justify="right")
    for place in places:
        distances.add_column(place["name"], justify="right")
    for place in places:
        scores = [place["metrics"][split] for split in splits]
        cells = [cell for each in scores for cell in (_number(each["loss"]), f"{each['accuracy']:.2%}")]
        metrics.add_row(place["name"], place["phase"], str(place["epoch"]), *cells)
        distances.add_row(place["name"], *(f"{place['distances'][other['name']]:.3f}" for other in places))
    ensemble, more = result["ensemble"], ""
    if ensemble:
        metrics.add_section()
        averages = {
            f"average of {len(ensemble['members'])}": {
                split: ensemble["splits"][split]["ensemble"] for split in splits
            },
            "at their mean": ensemble["parameter_average"],
        }
        for name, found in averages.items():
            cells = [cell for s in splits for cell in (_number(found[s]["nll"]), f"{found[s]['accuracy']:.2%}")]
            metrics.add_row(name, "", "", *cells)
        more = f"\nensemble       python -m distancing.ensemble {directory}"
    landscape = Table(title="landscape", title_justify="left")
    for column in ("analysis", "value", ""):
        landscape.add_column(column, justify="left" if column else "right")
    for name, values in (result["analysis"] or {}).items():
        for key in [key for key in values if "/" not in key and not key.endswith("_se")][:LANDSCAPE_VALUES]:
            error = f" ± {_number(values[f'{key}_se'])}" if f"{key}_se" in values else ""
            landscape.add_row(name, key, _number(values[key]) + error)
        landscape.add_section()
    if landscape.rows:
        more += f"\nlandscape      {directory}/landscape"
    facts = (
        f"{result['epochs']} epochs in {result['seconds']:.1f} s, training at {result['images_per_second']:,.0f} "
        f"images/s on {result['device']}, {result['parameters']:,} parameters\n"
        f"run directory  {directory}\n"
        f"TensorBoard    tensorboard --logdir {directory}{more}"
    )
    tables = [metrics, distances, *([landscape] if landscape.rows else [])]
    return Group(*tables, Text(facts)) if places else Text(facts)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
