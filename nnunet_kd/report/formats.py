"""Numbers as text, the same in page, Markdown and headline."""

import math
from collections.abc import Sequence

MINUS = "\u2212"
UNKNOWN = "–"
_DECIMALS = {"HD": 2, "HD95": 2, "ASSD": 2, "MSD": 2, "volume_pred_ml": 2, "volume_ref_ml": 2}


def number(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    """Fixed decimals with a true minus sign; a dash for NaN and None."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", MINUS)


def of_metric(value: float | None, metric: str, sign: bool = False) -> str:
    """A metric's value: three decimals, two for millimetres and millilitres; one more for differences."""
    return number(value, _DECIMALS.get(metric, 3) + (1 if sign else 0), sign)


def significant(value: float | None, digits: int = 3) -> str:
    """Significant digits behind the point, thousands separated; digits before the point are never rounded away."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def structures(left_out: int) -> str:
    """What follows a case's value where structures are left out of it, or nothing."""
    return f" ({left_out} missed or invented)" if left_out else ""


def count(value: float | None) -> str:
    """A whole number with separated thousands."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def probability(p: float) -> str:
    """p-value: three decimals, powers of ten where it is smaller."""
    if not math.isfinite(p):
        return UNKNOWN
    if p >= 0.001:
        return f"{p:.3f}"
    return f"{p:.1e}".replace("e-0", "e-").replace("e-", f"e{MINUS}") if p > 0 else "0"


def middle_and_range(values: Sequence[float], digits: int = 3) -> str:
    """Median, and the range in brackets where there is one."""
    if not values:
        return UNKNOWN
    ordered = sorted(values)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    text = significant(median, digits)
    if len(ordered) == 1:
        return text
    return f"{text} ({significant(ordered[0], digits)} to {significant(ordered[-1], digits)})"
