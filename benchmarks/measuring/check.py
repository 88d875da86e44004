"""Values before times: no form is timed before it has computed what the others compute."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from benchmarks.forms import Contest, Form


class WrongValuesError(RuntimeError):
    """A form computes something else than the form it is compared with."""


def check_values(name: str, values: Sequence[Tensor], reference: Sequence[Tensor], tolerance: float) -> None:
    """Raise WrongValuesError unless the largest error is within `tolerance` times the largest magnitude.

    Args:
        name: what is checked, for the message.
        values: at least one tensor; they answer to the first tensors of `reference`.
    """
    if not 0 < len(values) <= len(reference):
        raise WrongValuesError(f"{name}: expected 1 to {len(reference)} tensors, got {len(values)}")
    for index, (value, expected) in enumerate(zip(values, reference)):
        if value.shape != expected.shape:
            raise WrongValuesError(
                f"{name}: expected tensor {index} of shape {list(expected.shape)}, got {list(value.shape)}"
            )
        error = float((value.double() - expected.double()).abs().max())
        limit = tolerance * float(expected.double().abs().max())
        if not error <= limit:  # a NaN fails too
            raise WrongValuesError(f"{name}: tensor {index} is off by {error:.3g}, more than {limit:.3g}")


def available(contest: Contest, compiled: bool) -> Contest:
    """The contest without the forms that have no kernel, all others having been run once and checked.

    Args:
        compiled: whether to keep the forms behind `torch.compile`; not run here, as their first run is slow.

    Raises:
        WrongValuesError: a form's values are wrong.
    """
    first = next(iter(contest.rivals.values()))[0]
    reference = tuple(value.clone() for value in first.result())

    def passes(form: Form) -> bool:
        if form.compiled:
            return compiled
        try:
            values = reference if form is first else form.result()
        except ValueError as refusal:
            if form.optional and "has no kernel" in str(refusal):
                return False
            raise
        check_values(form.name, values, reference, contest.tolerance)
        return True

    ours = [form for form in contest.ours if passes(form)]
    rivals = {label: [form for form in forms if passes(form)] for label, forms in contest.rivals.items()}
    return Contest(ours, {label: forms for label, forms in rivals.items() if forms}, contest.tolerance)
