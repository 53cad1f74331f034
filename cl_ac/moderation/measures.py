"""How well scores tell unsafe texts from safe ones."""

from collections.abc import Sequence


def measures(scores: Sequence[float], unsafe: Sequence[bool], threshold: float = 0.5) -> dict[str, float]:
    """AUROC and AP, where there are both kinds; F1 of the unsafe ones and accuracy, at `threshold`.

    Args:
        scores: how probably each text is unsafe [N].
        unsafe: whether it is [N].
    """
    from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score

    found = {}
    if len(set(unsafe)) == 2:
        found["AUROC"] = float(roc_auc_score(unsafe, scores))
        found["AP"] = float(average_precision_score(unsafe, scores))
    said = [score >= threshold for score in scores]
    found["F1"] = float(f1_score(unsafe, said, zero_division=0))
    found["accuracy"] = float(accuracy_score(unsafe, said))
    return found
