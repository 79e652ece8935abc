"""A run's result as a table for people."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def summary(result: dict[str, Any], directory: str) -> RenderableType:
    """Each stored checkpoint and the final network: loss, accuracy, and the distances between them."""
    places = [*result["checkpoints"], *([result["final"]] if result["final"] else [])]
    splits = list(places[0]["metrics"]) if places else []
    table = Table(title=f"{result['name']}: {result['status']}", title_justify="left")
    for heading in ("checkpoint", "phase"):
        table.add_column(heading)
    for heading in ("epoch", *(f"{split} {name}" for split in splits for name in ("loss", "accuracy"))):
        table.add_column(heading, justify="right")
    for place in places[:-1]:
        table.add_column(f"‖θ − {place['name']}‖", justify="right")
    for place in places:
        metrics = [place["metrics"][split] for split in splits]
        cells = [cell for each in metrics for cell in (f"{each['loss']:.4f}", f"{each['accuracy']:.2%}")]
        distances = [f"{place['distances'][other['name']]:.3f}" for other in places[:-1]]
        table.add_row(place["name"], place["phase"], str(place["epoch"]), *cells, *distances)
    facts = (
        f"{result['epochs']} epochs, {result['seconds']:.1f} s, {result['images_per_second']:,.0f} images/s, "
        f"{result['parameters']:,} parameters\nrun directory  {directory}\nTensorBoard    tensorboard --logdir {directory}"
    )
    return Group(table, Text(facts))
