"""Draw the pictures and the short tables of RESULTS.md from the full tables: `python docs/figures/results.py`.

A full table is a CSV file in results/, which the report writes (the commands are in RESULTS.md). A short table is a
selection of it. It stands in RESULTS.md below the comment `<!-- table: NAME -->`, which is replaced here.
"""

from pathlib import Path

from pictures import pictures
from tables import updated

PAGE = Path(__file__).parents[2] / "RESULTS.md"

if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    pictures()
