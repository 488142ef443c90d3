"""What a head seems to do, in words, from its scores."""

from __future__ import annotations

from collections.abc import Mapping

from headwise.inspection.head_scores import FORMED

EVEN = 0.9  # entropy from which on attention is spread evenly
COPIES = 0.5  # copying from which on it is worth a word
HABITS = {  # what a share of the attention goes to
    "previous_token": "the previous token",
    "own_token": "the token itself",
    "first_token": "the first token",
    "duplicate_token": "the same token earlier",
    "induction": "what came after the same token earlier",
}
REMARKS = {
    "first_token": ", as heads do that find nothing to take",
    "duplicate_token": " where tokens repeat",
    "induction": " where tokens repeat: induction",
}


def in_words(scores: Mapping[str, float]) -> str:
    """What a head with these scores seems to do: own_token and those of METRICS, as far as they are there, and
    ov_copying if it is."""
    shares = {habit: scores[habit] for habit in sorted(HABITS.keys() & scores.keys(), key=lambda habit: -scores[habit])}
    if scores["entropy"] == scores["mean_distance"] == scores["own_token"] == 0:
        return "looks at nothing: all its weights are 0"
    said = [
        f"looks at {HABITS[habit]} {share:.0%} of the time{REMARKS.get(habit, '')}"
        for habit, share in shares.items()
        if share >= FORMED[habit]
    ]
    if not said and scores["entropy"] >= EVEN:
        said = ["spreads its attention almost evenly over all it may see"]
    if not said:
        nearest = max(shares, key=lambda habit: shares[habit])
        back = f"{scores['mean_distance']:.1f} tokens back on average"
        return f"not clear: looks {back}, {shares[nearest]:.0%} of the time at {HABITS[nearest]}"
    copying = scores.get("ov_copying", 0.0)
    if abs(copying) >= COPIES:
        said.append(f"makes what it reads {'likelier' if copying > 0 else 'less likely'} to come next")
    return "; ".join(said)
