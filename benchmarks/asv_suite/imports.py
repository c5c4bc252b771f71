"""How long does a person wait before anything happens?"""

from __future__ import annotations


class Imports:
    """Fresh processes: what the interpreter takes beside them is in the first."""

    def timeraw_python(self) -> str:
        return "pass"

    def timeraw_import(self) -> str:
        return "import eds_chunked"

    def timeraw_help(self) -> str:
        return "from eds_chunked.cli import main; main(['--help'], standalone_mode=False)"
