"""An extension of Griffe, which reads docstrings for the Python API: lines `name (unit): text` become a list."""

import re
from typing import Any

from griffe import Extension, Object

FIELD = re.compile(r"^([A-Za-z_]\w*(?:, \w+)*)((?: [\[(][^\])]*[\])])?): (?=\S)", re.MULTILINE)
CONTINUED = re.compile(r"\n {4}(?=\S)")


class DocstringFields(Extension):
    """Turn the descriptions of fields and arguments into Markdown lists."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring:
            text = CONTINUED.sub(" ", obj.docstring.value)
            text = FIELD.sub(r"- **`\1`**\2: ", text)
            # a list needs an empty line before it
            obj.docstring.value = re.sub(r"(?m)^(?!- \*\*`)(.+)\n(?=- \*\*`)", r"\1\n\n", text)
