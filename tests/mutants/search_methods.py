"""Faults in search methods and in what searches share: those that one test sees."""

from __future__ import annotations

from .mutant import Mutant

_METHODS = "kshot_ext/nas/methods"
_TESTS = "tests/nas/methods"

MUTANTS = (
    Mutant(
        "gold_presses_nothing",
        f"{_METHODS}/gold_nas.py",
        "penalty=self.pressure * self.resources()",
        "penalty=0.0",
        (f"{_TESTS}/test_gold_nas.py",),
        "GOLD-NAS' price on operations is no part of the loss.",
    ),
    Mutant(
        "gold_trains_the_costliest_results_anew",
        f"{_METHODS}/gold_nas.py",
        "self.found[round(last * (index + 1) / most)]",
        "self.found[index]",
        (f"{_TESTS}/test_gold_nas.py",),
        "Of a long series the first networks are taken, and not the last one.",
    ),
    Mutant(
        "mixture_without_its_penalty",
        f"{_METHODS}/parts/relaxation.py",
        "do.backward(loss + penalty)",
        "do.backward(loss)",
        (f"{_TESTS}/test_gold_nas.py",),
        "A mixture's penalty has no gradient.",
    ),
    Mutant(
        "fp_nas_moves_its_distribution_at_once",
        f"{_METHODS}/fp_nas.py",
        "if do.progress >= self.settings.weights_only:",
        "if True:",
        (f"{_TESTS}/test_fp_nas.py",),
        "FP-NAS' distribution follows weights that have not learnt anything.",
    ),
    Mutant(
        "fp_nas_finds_the_least_probable",
        f"{_METHODS}/fp_nas.py",
        "log_probability(within).argmax()",
        "log_probability(within).argmin()",
        (f"{_TESTS}/test_fp_nas.py",),
        "Where the most probable network is beyond the limits, the least probable sample within them is taken.",
    ),
    Mutant(
        "fp_nas_counts_samples_of_all_epochs",
        f"{_METHODS}/fp_nas.py",
        "samples, self._samples = self._samples, []",
        "samples = self._samples",
        (f"{_TESTS}/test_fp_nas.py",),
        "An epoch tells the mean number of samples of all epochs so far.",
    ),
    Mutant(
        "found_stage_changes_the_costliest",
        f"{_METHODS}/parts/found_stage.py",
        "cheapest = min(found",
        "cheapest = max(found",
        (f"{_TESTS}/parts/test_found_stage.py",),
        "Where nothing that was found is within the limits, what is farthest from them is changed until it is.",
    ),
    Mutant(
        "archive_orders_equals_by_their_turn",
        "kshot_ext/nas/searchers/archive.py",
        "(-result.merit, result.macs, result.bit_operations)",
        "(-result.merit,)",
        ("tests/nas/searchers/test_archive.py",),
        "Of equally good networks the one that was evaluated first is the best, whatever it costs.",
    ),
    Mutant(
        "archive_keeps_its_own_results_beside_a_state",
        "kshot_ext/nas/searchers/archive.py",
        "        self._results = {}\n        for text",
        "        for text",
        ("tests/nas/searchers/test_archive.py",),
        "Going back to a state leaves what was evaluated since.",
    ),
    Mutant(
        "rival_of_any_cost",
        "kshot_ext/nas/spaces/sampling.py",
        "        if difference < least:",
        "        if nearest is None:",
        ("tests/nas/spaces/test_sampling.py",),
        "Where no random network costs about as much as the winner, the first one is its rival.",
    ),
)
