"""A measured figure and its bound, printed as one line.

>>> at_most("start to first answer", 0.84, 1.0, "s", 2)
start to first answer: 0.84 s (at most 1.00): holds
True
"""

VERDICTS = {True: "holds", False: "MISSED"}


def at_most(
    figure: str, value: float, bound: float, unit: str = "", digits: int = 0
) -> bool:
    """Print a figure that must not exceed `bound`; return whether it holds."""
    holds = value <= bound
    text = f"{figure}: {value:,.{digits}f} {unit}".rstrip()
    print(f"{text} (at most {bound:,.{digits}f}): {VERDICTS[holds]}")
    return holds


def at_least(
    figure: str, value: float, bound: float, unit: str = "", digits: int = 0
) -> bool:
    """Print a figure that must reach `bound`; return whether it holds."""
    holds = value >= bound
    text = f"{figure}: {value:,.{digits}f} {unit}".rstrip()
    print(f"{text} (at least {bound:,.{digits}f}): {VERDICTS[holds]}")
    return holds
