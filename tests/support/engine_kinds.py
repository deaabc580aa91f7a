"""Which kinds of engine a test in tests/engine is run with; its conftest.py has the parameter."""

from typing import Final

import pytest

# For what has no engine, makes both kinds itself, or is of something that never meets a packet of a spliced flow.
alone: Final = pytest.mark.parametrize("engine_kind", ["alone"], indirect=True)
