"""`python docs/figures/toy [FOLDER]` draws the documentation's pictures of toys."""

import argparse
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

sys.path.append(str(Path(__file__).parents[1]))

from toy import pictures
from toy.animation import film


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python docs/figures/toy", description="Draw a ball on losses with hills.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs"), metavar="FOLDER")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (pictures.hill, pictures.start, pictures.kernels, pictures.valleys):
        FigureCanvasAgg(draw()).print_png(folder / f"{draw.__name__}.png")
    film(folder / "hill.gif")


if __name__ == "__main__":
    main()
