"""The state table as a Mermaid diagram and as a Markdown table: what docs/reference/flow-states.md holds."""

from kracauer.tcp.state import TABLE, State


def render_diagram() -> str:
    """Return the diagram's source, one arrow a transition."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.PEEKING}"]
    for state, transitions in TABLE.items():
        for happening, following in transitions.items():
            lines.append(f"    {state} --> {following}: {happening}")
    return "\n".join([*lines, f"    {State.CLOSED} --> [*]"])


def render_table() -> str:
    """Return the same as a table: a row a state, what moves it, and where to."""
    lines = ["| state | on | becomes |", "|---|---|---|"]
    for state, transitions in TABLE.items():
        for happening, following in transitions.items():
            lines.append(f"| `{state}` | `{happening}` | `{following}` |")
    return "\n".join(lines)
